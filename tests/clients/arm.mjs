// SPDX-License-Identifier: Apache-2.0
// @azure/arm-appcontainers: session pools by the management SDK.
import { ContainerAppsAPIClient } from "@azure/arm-appcontainers";
import { DefaultAzureCredential } from "@azure/identity";
import { writeFile } from "node:fs/promises";

const { ARM_ENDPOINT, SUBSCRIPTION, GROUP, POOL, REPORT } = process.env;
const credential = new DefaultAzureCredential();
const client = new ContainerAppsAPIClient(credential, SUBSCRIPTION, {
  endpoint: ARM_ENDPOINT,
  credentialScopes: "https://management.azure.com/.default",
  allowInsecureConnection: ARM_ENDPOINT.startsWith("http:"),
});

// Over plain HTTP only: the SDK's own policy sends tokens over TLS alone.
if (ARM_ENDPOINT.startsWith("http:")) {
  client.pipeline.removePolicy({ name: "bearerTokenAuthenticationPolicy" });
  client.pipeline.addPolicy(
    {
      name: "plainBearerToken",
      async sendRequest(request, next) {
        const { token } = await credential.getToken("https://management.azure.com/.default");
        request.headers.set("Authorization", `Bearer ${token}`);
        return next(request);
      },
    },
    { phase: "Sign" },
  );
}

const requests = [];
client.pipeline.addPolicy(
  {
    name: "recorder",
    async sendRequest(request, next) {
      const response = await next(request);
      const url = new URL(request.url);
      requests.push([request.method, url.pathname, url.searchParams.get("api-version"), response.status]);
      return response;
    },
  },
  { phase: "Sign" }, // next to the wire: where replies are not errors yet
);

const pools = client.containerAppsSessionPools;
const report = { requests };

async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    return { error: error.name, code: error.code, statusCode: error.statusCode, message: error.message };
  }
}

async function all(pages) {
  const found = [];
  for await (const item of pages) found.push(item.name);
  return found;
}

report.before = await attempt(() => pools.get(GROUP, POOL));
report.created = await attempt(() =>
  pools.beginCreateOrUpdateAndWait(GROUP, POOL, {
    location: "local",
    tags: { made: "by the SDK" },
    containerType: "PythonLTS",
    poolManagementType: "Dynamic",
    scaleConfiguration: { maxConcurrentSessions: 7 },
    dynamicPoolConfiguration: {
      lifecycleConfiguration: { lifecycleType: "Timed", cooldownPeriodInSeconds: 300 },
    },
    sessionNetworkConfiguration: { status: "EgressDisabled" },
  }),
);
report.found = await attempt(() => pools.get(GROUP, POOL));
report.updated = await attempt(() =>
  pools.beginUpdateAndWait(GROUP, POOL, { scaleConfiguration: { maxConcurrentSessions: 9 } }),
);
report.inGroup = await all(pools.listByResourceGroup(GROUP));
report.inSubscription = await all(pools.listBySubscription());
report.refused = await attempt(() =>
  pools.beginCreateOrUpdateAndWait(GROUP, POOL, { location: "local", containerType: "CobolLTS" }),
);
report.deleted = await attempt(() => pools.beginDeleteAndWait(GROUP, POOL));
report.after = await attempt(() => pools.get(GROUP, POOL));
report.again = await attempt(() => pools.beginDeleteAndWait(GROUP, POOL));

await writeFile(REPORT, JSON.stringify(report));
