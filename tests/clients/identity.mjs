// SPDX-License-Identifier: Apache-2.0
// @azure/identity: tokens by the credentials that applications use inside Azure.
import { DefaultAzureCredential, ManagedIdentityCredential, getBearerTokenProvider } from "@azure/identity";
import { writeFile } from "node:fs/promises";

const scopes = [
  "https://dynamicsessions.io/.default",
  "https://acasessions.io/.default",
  "https://management.azure.com/.default",
  "https://management.core.windows.net//.default",
];
const report = { default: {}, managed: {} };

async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}

for (const scope of scopes) {
  report.default[scope] = await attempt(() => new DefaultAzureCredential().getToken(scope));
  report.managed[scope] = await attempt(() => new ManagedIdentityCredential().getToken(scope));
}
const provider = getBearerTokenProvider(new DefaultAzureCredential(), scopes[0]);
report.provider = [await provider(), await provider()];
report.client = await attempt(() =>
  new ManagedIdentityCredential({ clientId: "11111111-2222-3333-4444-555555555555" }).getToken(scopes[0]),
);
report.unknown = await attempt(() =>
  new ManagedIdentityCredential().getToken("https://vault.azure.net/.default"),
);
process.env.IDENTITY_HEADER = "wrong";
report.refused = await attempt(() => new ManagedIdentityCredential().getToken(scopes[1] + "#2"));

await writeFile(process.env.REPORT, JSON.stringify(report));
