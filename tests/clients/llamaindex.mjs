// SPDX-License-Identifier: Apache-2.0
// @llamaindex/azure as it is used: the pool and the credential come from the environment.
import { AzureDynamicSessionTool } from "@llamaindex/azure";
import { readFile, writeFile } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";

const { log } = console;
console.log = () => {}; // the tool writes its requests there

const report = {};
const tool = new AzureDynamicSessionTool();

report.endpoint = tool.poolManagementEndpoint;
report.sessionId = tool.sessionId;
report.metadata = tool.metadata.name;

report.sum = await tool.call({ code: "1 + 1" });
report.print = await tool.call({ code: "print('hello world')" });
report.text = await tool.call({ code: "'2024-05-02'" });
report.list = await tool.call({ code: "[1, 'a']" });
report.nothing = await tool.call({ code: "x = 20" });
report.state = await tool.call({ code: "x + 1" });
report.none = await tool.call({ code: "n = None; n" });
report.failure = await tool.call({ code: "1 / 0" });

const figure = await tool.call({
  code: "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()",
});
// The tool appends the name to a path that has it already.
const saved = figure.result.slice(0, figure.result.lastIndexOf("/"));
report.figure = { ...figure, file: (await readFile(saved)).toString("base64") };

report.upload = await tool.uploadFile({
  data: new Blob(["city,n\nRiga,3\n"]),
  remoteFilename: "cities ü.csv",
});
await tool.uploadFile({ data: new Blob([]), remoteFilename: "empty" });
report.read = await tool.call({ code: "open('cities ü.csv').read()" });
await tool.call({ code: "open('out.bin', 'wb').write(bytes(range(256)) * 1000);" });
report.files = await tool.listFiles();

const stream = await tool.downloadFile({ remoteFilename: "cities ü.csv" });
report.download = await new Response(stream).text();

await tool.downloadFile({ remoteFilename: "out.bin", localFilename: "local.bin" });
for (let i = 0; i < 500; i++) {
  report.local = (await readFile("local.bin").catch(() => Buffer.alloc(0))).toString("base64");
  if (report.local.length >= 256000) break; // the tool does not wait for its writer
  await setTimeout(10);
}

const missing = await tool.downloadFile({ remoteFilename: "none.txt" });
report.missing = await new Response(missing).json();

const wrong = new AzureDynamicSessionTool({ sessionId: "abc" });
report.wrong = await wrong.call({ code: "1" });

const tenant = new AzureDynamicSessionTool({ sessionId: "tenant/1 & more".replaceAll(" ", "-") });
report.tenant = await tenant.call({ code: "'x' in globals()" });

console.log = log;
await writeFile(process.env.REPORT, JSON.stringify(report));
