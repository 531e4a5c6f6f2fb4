use serde_json::json;

use crate::server::{Server, json};

const PATH: &str = "/v1/machines/hello/executions";

#[tokio::test]
async fn an_execution_has_the_fields_of_every_dialect() {
    let server = Server::start().await;
    let machine = server.awake().await;
    let reply = server
        .post(
            PATH,
            json!({ "command": ["echo", "hi"], "env": { "TOKEN": "secret" }, "cwd": "/tmp" }),
        )
        .await;
    assert_eq!(reply.status(), 200);
    let execution = json(reply).await;
    assert_eq!(execution["machine_id"], machine["machine_id"]);
    assert_eq!(execution["status"], "succeeded");
    assert_eq!(execution["command"], json!(["echo", "hi"]));
    assert_eq!(execution["env_keys"], json!(["TOKEN"]));
    assert!(!execution.to_string().contains("secret"));
    assert_eq!((&execution["log_capture"], &execution["artifacts"]), (&json!({}), &json!([])));
    let id = execution["execution_id"].as_str().unwrap();
    let output = json(server.get(&format!("{PATH}/{id}/output")).await).await;
    assert_eq!((&output["stdout"], &output["stderr"]), (&"hi".into(), &"".into()));
    assert_eq!(output["stdout_truncated"], false);
    let events = json(server.get(&format!("{PATH}/{id}/events")).await).await;
    assert_eq!(
        (&events["items"][0]["type"], &events["items"][0]["sequence"]),
        (&"lifecycle".into(), &1.into())
    );
    let listed = json(server.get(PATH).await).await;
    assert_eq!(listed["items"][0]["execution_id"], id);
}

#[tokio::test]
async fn a_running_execution_is_cancelled_by_delete() {
    let server = Server::start().await;
    server.awake().await;
    let execution = json(server.post(PATH, json!({ "command": ["sleep", "60"] })).await).await;
    assert_eq!(execution["status"], "running");
    let path = format!("{PATH}/{}", execution["execution_id"].as_str().unwrap());
    let reply = server.delete(&path).await;
    assert_eq!(reply.status(), 200);
    assert_eq!(json(reply).await["status"], "cancelled");
    assert_eq!(json(server.get(&path).await).await["status"], "cancelled");
}

#[tokio::test]
async fn a_sleeping_machine_wakes_for_a_command() {
    let server = Server::start().await;
    server.asleep().await;
    let reply =
        server.post(&format!("{PATH}?wait_ms=5000"), json!({ "command": ["echo", "up"] })).await;
    assert_eq!(reply.status(), 200);
    assert_eq!(json(reply).await["status"], "succeeded");
    assert_eq!(json(server.get("/v1/machines/hello").await).await["phase"], "running");
}

#[tokio::test]
async fn waiting_has_an_end() {
    let server = Server::start().await;
    server.awake().await;
    let reply =
        server.post(&format!("{PATH}?wait_ms=50"), json!({ "command": ["sleep", "60"] })).await;
    assert_eq!(json(reply).await["status"], "running");
    assert_eq!(
        server.post(&format!("{PATH}?wait_ms=x"), json!({ "command": ["a"] })).await.status(),
        400
    );
}

#[tokio::test]
async fn what_names_no_execution_is_404_and_what_is_no_command_400() {
    let server = Server::start().await;
    server.awake().await;
    for id in ["exec-01890000-0000-7000-8000-000000000000", "unknown", "%FF"] {
        let status = server.get(&format!("{PATH}/{id}")).await.status();
        assert!(status == 404 || id == "%FF" && status == 400, "{id}: {status}");
    }
    for body in [json!({}), json!({ "command": [] }), json!({ "command": "ls -l" })] {
        assert_eq!(server.post(PATH, body).await.status(), 400);
    }
}
