//! A client that walks through all backups of a project, page by page.
//!
//! `cargo run --example walk [SERVER [PROJECT]]`, with a server such as `icebox serve`.

use std::{env, error::Error};

use icebox::proto::{ListBackupsRequest, backup_service_client::BackupServiceClient};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let server = arguments.next().unwrap_or_else(|| "127.0.0.1:50051".into());
    let project_id = arguments.next().unwrap_or_else(|| "demo".into());
    let mut backups = BackupServiceClient::connect(format!("http://{server}")).await?;

    let mut request = ListBackupsRequest {
        project_id,
        limit: 100,
        ..ListBackupsRequest::default()
    };
    loop {
        let page = backups.list_backups(request.clone()).await?.into_inner();
        for backup in page.decoded()? {
            let metadata = backup.backup_metadata.unwrap_or_default();
            println!("{}  {}", backup.backup_id, metadata.backup_name);
        }
        // Unlike a marker, a token continues even if the item was deleted. A page may be empty without being the last one.
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(());
        }
    }
}
