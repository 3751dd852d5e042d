// Watches a client's jobs, and goes on where it was when the connection breaks: node watch.js [SERVER [PROJECT [CLIENT]]]
//
// What an agent does instead of polling. Needs what walk.js needs.

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const PROTO = path.join(__dirname, "..", "..", "proto");
const RETRY_AFTER_MS = 500;
const definition = protoLoader.loadSync("freezer/v2/job_service.proto", {
  includeDirs: [PROTO],
  keepCase: true,
  longs: String,
  oneofs: true,
});
const { freezer } = grpc.loadPackageDefinition(definition);

// What is stored, then each change, for ever.
async function* changes(client, projectId, clientId) {
  const request = { project_id: projectId, filter: { client_id: clientId }, after_revision: "0" };
  for (;;) {
    try {
      for await (const said of client.WatchJobs(request)) {
        // What it says is seen now: 0 until all that is stored is here.
        request.after_revision = said.revision;
        yield said;
      }
    } catch (error) {
      if (error.code === grpc.status.OUT_OF_RANGE) {
        // The history does not go back so far: read everything anew.
        request.after_revision = "0";
      } else if (error.code !== grpc.status.UNAVAILABLE) {
        throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_AFTER_MS));
    }
  }
}

async function main(server = "127.0.0.1:50051", projectId = "demo", clientId = "") {
  const client = new freezer.v2.JobService(server, grpc.credentials.createInsecure());
  for await (const said of changes(client, projectId, clientId)) {
    if (said.change === "put") {
      console.log(`put ${said.put.job_id} ${said.put.description}`);
    } else if (said.change === "removed_job_id") {
      console.log(`removed ${said.removed_job_id}`);
    } else if (said.change === "synced") {
      console.log("synced");
    }
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
