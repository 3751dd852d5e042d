//! Each route of Freezer's HTTP API admits exactly those whom its twin admits.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::house::{House, OWN, ROLES, name, tokens};
use crate::{
    Access,
    freezer_http::{Way, ways},
    identity::{self, Row},
};

/// The status of the answer to a request with an empty document, for a project, with a token.
async fn status(address: &str, way: &Way, project: &str, token: Option<&str>) -> u16 {
    let some_id = "0".repeat(32);
    let path = way.path.replace("{project_id}", project);
    let path = path.replace("{id}", &some_id).replace("{job_id}", &some_id);
    let token = token.map_or_else(String::new, |token| format!("X-Auth-Token: {token}\r\n"));
    let method = &way.method;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{token}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    status.unwrap_or_else(|| panic!("{method} {path}: {answer}"))
}

#[tokio::test]
async fn each_way_is_for_the_roles_of_its_twin() {
    let house = House::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let access = Access::with_tokens(tokens());
    drop(house.icebox.serve_http(listener, access));
    let revision = house.icebox.revision();
    for way in ways() {
        let shown = format!("{} {}", way.method, way.path);
        for token in [None, Some("expired"), Some("unheard-of"), Some("")] {
            let answered = status(&address, &way, OWN, token).await;
            assert_eq!(answered, 401, "{shown}: {token:?}");
        }
        let Some(Row::Roles(allowed)) = identity::rpc(way.twin).map(|rpc| rpc.row) else {
            panic!("{shown} is for everybody");
        };
        for role in ROLES {
            let answered = status(&address, &way, OWN, Some(&name(role))).await;
            let is_refused = matches!(answered, 401 | 403);
            assert_eq!(
                is_refused,
                !allowed.contains(&role),
                "{shown}: {role:?} gets {answered}"
            );
            if name(role) != "admin" {
                let answered = status(&address, &way, "other", Some(&name(role))).await;
                // A body that is not a document is refused before its project matters.
                assert!(
                    matches!(answered, 403 | 400),
                    "{shown}: {role:?} gets {answered}"
                );
            }
        }
    }
    assert_eq!(house.icebox.revision(), revision);
}
