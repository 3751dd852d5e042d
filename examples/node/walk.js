// Walks through all backups of a project, page by page: node walk.js [SERVER [PROJECT]]
//
// Needs `npm install @grpc/grpc-js @grpc/proto-loader`, and the .proto files of this repository.

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const PROTO = path.join(__dirname, "..", "..", "proto");
const definition = protoLoader.loadSync("freezer/v2/backup_service.proto", {
  includeDirs: [PROTO],
  keepCase: true,
  longs: String,
});
const { freezer } = grpc.loadPackageDefinition(definition);

function listBackups(client, request) {
  const deadline = Date.now() + 10_000;
  return new Promise((resolve, reject) => {
    client.ListBackups(request, { deadline }, (error, page) => (error ? reject(error) : resolve(page)));
  });
}

async function* backups(client, projectId) {
  const request = { project_id: projectId, limit: 100, page_token: "" };
  do {
    const page = await listBackups(client, request);
    yield* page.backups;
    // A page may be empty and not the last: only an empty token ends a walk.
    request.page_token = page.next_page_token;
  } while (request.page_token);
}

async function main(server = "127.0.0.1:50051", projectId = "demo") {
  const client = new freezer.v2.BackupService(server, grpc.credentials.createInsecure());
  try {
    for await (const backup of backups(client, projectId)) {
      console.log(`${backup.backup_id}  ${backup.backup_metadata.backup_name}`);
    }
  } finally {
    client.close();
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
