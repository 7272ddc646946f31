#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make run`: starts a daemon, runs the founding document's pandas example in a new session, then serves.
set -euo pipefail

build=${BUILD:-build}
oneshot=${ONESHOT:-0}
listen=${LISTEN:-127.0.0.1:8900}
tls_listen=${TLS_LISTEN:-127.0.0.1:8943}
root=/run/bivouac-dev
[ "$oneshot" = 1 ] && listen=127.0.0.1:0 && tls_listen=127.0.0.1:0 && root=$(mktemp -d /tmp/bivouac-oneshot.XXXXXX)

[ "$(id -u)" = 0 ] || { echo "make run needs root: the daemon starts as root and then drops it" >&2; exit 1; }
mkdir -p "$root"
ready=$root/ready.json log=$root/log
: >"$ready"

"$build/bivouacd" --dev --listen "$listen" --tls-listen "$tls_listen" --state "$root/state" --run-dir "$root/run" >"$ready" 2>"$log" &
daemon=$!

finish() {
	local status=$?
	trap - EXIT INT TERM
	if kill "$daemon" 2>/dev/null; then wait "$daemon" || true; fi
	[ "$oneshot" = 1 ] && rm -rf "$root"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

for _ in $(seq 300); do
	[ -s "$ready" ] && break
	kill -0 "$daemon" 2>/dev/null || { echo "the daemon did not start:" >&2; cat "$log" >&2; exit 1; }
	sleep 0.1
done
[ -s "$ready" ] || { echo "the daemon is not ready after 30 s:" >&2; cat "$log" >&2; exit 1; }

field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$ready"; }
endpoint=$(field endpoint) token=$(field token)
id=example-$$
url="$endpoint/identifier/$id/code/execute?api-version=2024-02-02-preview"
body='{
    "properties": {
        "codeInputType": "inline",
        "executionType": "synchronous",
        "code": "import pandas as pd\ndf = pd.DataFrame({'"'A'"': [1, 2, 3], '"'B'"': [4, 5, 6]})\nprint(df.describe())"
    }
}'

echo "POST …/identifier/$id/code/execute"
echo "$body"
reply=$(curl -sS --fail-with-body -D "$root/headers" -w '\n%{time_total}' -X POST "$url" \
	-H "Authorization: Bearer $token" -H 'Content-Type: application/json' -d "$body")
seconds=${reply##*$'\n'}
reply=${reply%$'\n'*}
echo
echo "$reply" | /usr/bin/python3 -c '
import json, sys
reply = json.load(sys.stdin)
print(json.dumps(reply, indent=4))
print()
print(reply["result"]["stdout"])
sys.exit(0 if reply["status"] == "Success" and "count  3.0  3.0" in reply["result"]["stdout"] else 1)'
grep -i '^x-ms-.*\(time\|duration\)' "$root/headers" | tr -d '\r' | sed 's/$/ ms/'
echo "measured by curl, a new connection included: $seconds s"
[ "$oneshot" = 1 ] && exit 0

cat <<TEXT

Serving. In another terminal:

  E='$endpoint'
  T='$token'
  curl -s "\$E/executions?api-version=2025-10-02-preview&identifier=my-session-1" \\
    -H "Authorization: Bearer \$T" -H 'Content-Type: application/json' \\
    -d '{"codeInputType":"Inline","executionType":"Synchronous","code":"6*7"}'

  BIVOUAC_CONTEXT=$ready $build/bivouac session code-interpreter execute -n default -g default \\
    -i my-session-1 --code 'print("hello")'

For clients that insist on HTTPS: $(field tlsEndpoint)
  their certificate authority: $(field caFile)

ARM endpoint: $(field armEndpoint)    log: $log    Ctrl-C ends it and all sessions.
TEXT
wait "$daemon"
