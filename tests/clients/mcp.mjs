// SPDX-License-Identifier: Apache-2.0
// @modelcontextprotocol/sdk as its documentation uses it; the address and the key are all it is given.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { writeFile } from "node:fs/promises";

const { MCP_URL, MCP_KEY, MCP_LANGUAGE } = process.env;
const report = { errors: [] };

async function connect(key) {
  const client = new Client({ name: "bivouac-tests", version: "1.0.0" });
  client.onerror = (error) => report.errors.push(String(error));
  const transport = new StreamableHTTPClientTransport(new URL(MCP_URL), {
    requestInit: { headers: { "x-ms-apikey": key } },
  });
  await client.connect(transport);
  return client;
}

async function thrown(promise) {
  const error = await promise.then(() => null, (e) => e);
  return error && { name: error.name, code: error.code, message: error.message, data: error.data };
}

const client = await connect(MCP_KEY);
report.server = client.getServerVersion();
report.capabilities = client.getServerCapabilities();
report.instructions = client.getInstructions();
report.version = client.transport.protocolVersion;
report.ping = await client.ping();
report.tools = (await client.listTools()).tools;

const call = (name, args, options) => client.callTool({ name, arguments: args }, undefined, options);
const launched = await call("launchShell", {});
const environmentId = launched.structuredContent.environmentId;
report.environmentId = environmentId;

const shell = (more) => call("runShellCommandInRemoteEnvironment", { environmentId, ...more });
report.shell = await shell({ shellCommand: "cd /tmp && pwd; echo e >&2; exit 3" });
report.program = await shell({ execCommandAndArgs: ["printf", "%s|", "a b", "$HOME"] });

const file = (verb, more) => call(`${verb}InRemoteEnvironment`, { environmentId, ...more });
report.written = await file("writeFile", { path: "a/ü.txt", content: "häl\n" });
report.read = await file("readFile", { path: "a/ü.txt" });
report.files = await file("listFiles", { recursive: true });
report.deleted = await file("deleteFile", { path: "a/ü.txt" });
report.missing = await thrown(file("readFile", { path: "none" }));

if (MCP_LANGUAGE === "python") {
  const python = (pythonCode, more) =>
    call("runPythonCodeInRemoteEnvironment", { environmentId, pythonCode, ...more });
  report.value = await python("x = 6; x * 7");
  report.state = await python("print(x); 0.1");
  report.failure = await python("1 / 0");
  report.figure = await python("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()");
  report.parallel = await Promise.all([1, 2, 3, 4].map((n) => python(`${n} * x`)));

  // Requests that are given up, then a client that goes away: the code runs on.
  const slow = (n) => `
import os, time
open("begun-${n}", "w").close()
while not os.path.exists("go-${n}"):
    time.sleep(0.02)
left_${n} = "ran on"`;
  const begun = async (n) => {
    for (;;) {
      const { files } = (await file("listFiles", {})).structuredContent;
      if (files.some((f) => f.path === `begun-${n}`)) return;
    }
  };
  const abort = new AbortController();
  const args = { environmentId, pythonCode: slow(1) };
  const given = call("runPythonCodeInRemoteEnvironment", args, { signal: abort.signal });
  await begun(1);
  abort.abort("enough");
  report.aborted = await thrown(given);
  await file("writeFile", { path: "go-1", content: "" });
  const other = await connect(MCP_KEY);
  const params = { name: "runPythonCodeInRemoteEnvironment", arguments: { environmentId, pythonCode: slow(2) } };
  const lost = thrown(other.callTool(params));
  await begun(2);
  await other.close();
  report.closed = await lost;
  await file("writeFile", { path: "go-2", content: "" });
  report.after = await python("left_1 + left_2");
}
if (MCP_LANGUAGE === "node") {
  const run = (javaScriptCode) =>
    call("runJavaScriptCodeInRemoteEnvironment", { environmentId, javaScriptCode });
  report.value = await run("const x = 6; x * 7");
  report.state = await run("console.log(x); await Promise.resolve('later')");
  report.failure = await run("null.x");
}

report.unknown = await thrown(call("rm", {}));
report.invalid = await thrown(call("listFilesInRemoteEnvironment", { environmentId: "abc" }));
report.ended = await call("endRemoteEnvironment", { environmentId });
report.wrongKey = await thrown(connect("0".repeat(64)));
await client.close();

await writeFile(process.env.REPORT, JSON.stringify(report));
process.exit(0);
