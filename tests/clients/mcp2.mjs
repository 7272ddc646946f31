// SPDX-License-Identifier: Apache-2.0
// @modelcontextprotocol/client, which has followed @modelcontextprotocol/sdk: it speaks a later
// revision of the protocol as well and has to find out that this server does not.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { writeFile } from "node:fs/promises";

async function use(options) {
  const client = new Client({ name: "bivouac-tests", version: "1.0.0" }, options);
  const transport = new StreamableHTTPClientTransport(new URL(process.env.MCP_URL), {
    requestInit: { headers: { "x-ms-apikey": process.env.MCP_KEY } },
  });
  await client.connect(transport);
  const report = { version: client.getNegotiatedProtocolVersion() };
  report.tools = (await client.listTools()).tools.map((tool) => tool.name);
  const { structuredContent } = await client.callTool({ name: "launchShell", arguments: {} });
  report.value = await client.callTool({
    name: "runPythonCodeInRemoteEnvironment",
    arguments: { environmentId: structuredContent.environmentId, pythonCode: "6 * 7" },
  });
  await client.close();
  return report;
}

const report = {
  initialize: await use(),
  auto: await use({ versionNegotiation: { mode: "auto" } }),
};
await writeFile(process.env.REPORT, JSON.stringify(report));
process.exit(0);
