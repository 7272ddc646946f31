#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks from the #include lines that dependencies between the folders of src/ only point down."""
import pathlib
import re
import sys

ALLOWED = {
    "base": set(),
    "loop": {"base"},
    "http": {"base", "loop"},
    "identity": {"base", "http"},
    "store": {"base"},
    "sandbox": {"base", "loop"},
    "image": {"base"},
    "telemetry": {"base", "loop", "http"},
    "arm": {"base", "loop", "http", "identity", "store", "sandbox", "image", "telemetry"},
    "pool": {"base", "loop", "http", "identity", "store", "sandbox", "image", "telemetry", "arm"},
    "api": {"base", "loop", "http", "identity", "store", "sandbox", "image", "telemetry", "arm", "pool"},
    "daemon": {"*"},
    "jailer": {"base"},
    "gateway": {"base"},
    "agent": {"base"},
    "cli": {"base"},
    "runtimes": {"base", "jailer"},
}
# Rule zero: an exception needs a reason.
EXCEPTIONS = {
    ("cli/token.c", "identity"): "`bivouac token` signs with the issuer's key on the machine itself",
    ("runtimes", "jailer"): "a zygote confines a kernel with the jailer's code and speaks its protocol",
}
# In `base` one file may use jansson; agent, gateway and jailer link without it.
JSON_FREE = {"agent", "gateway", "jailer", "loop", "store", "sandbox"}

root = pathlib.Path(__file__).resolve().parent.parent
bad = []
for path in sorted([*root.glob("src/*/*.[ch]"), *root.glob("runtimes/*/*.[ch]")]):
    rel = path.relative_to(root)
    layer = rel.parts[1] if rel.parts[0] == "src" else "runtimes"
    if layer not in ALLOWED:
        bad.append(f"{rel}: folder {layer} has no place in the layering")
        continue
    for number, line in enumerate(path.read_text().splitlines(), 1):
        m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not m:
            continue
        target = m.group(1).split("/")[0]
        if m.group(1) == "base/json.h" and layer in JSON_FREE:
            bad.append(f"{rel}:{number}: {layer} does without JSON")
        if target in ("base", layer) or "/" not in m.group(1) or "*" in ALLOWED[layer]:
            continue
        if target in ALLOWED[layer] or ("/".join(rel.parts[1:]), target) in EXCEPTIONS:
            continue
        bad.append(f"{rel}:{number}: {layer} may not include {m.group(1)}")
for line in bad:
    print(line, file=sys.stderr)
print(f"layering: {len(bad)} violations")
sys.exit(bool(bad))
