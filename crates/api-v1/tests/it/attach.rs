use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::server::{KEY, Server, json as body};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const PATH: &str = "/v1/machines/hello/executions/attach";

async fn connect(server: &Server, path: &str) -> Result<Socket, Error> {
    let mut request = format!("ws://{}{path}", server.address).into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", KEY.parse().unwrap());
    Ok(connect_async(request).await?.0)
}

async fn say(socket: &mut Socket, value: Value) {
    socket.send(Message::text(value.to_string())).await.unwrap();
}

/// The next message that is not a ping.
async fn next(socket: &mut Socket) -> Message {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await;
        match message.expect("it says something").expect("it is open").unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

async fn next_json(socket: &mut Socket) -> Value {
    serde_json::from_str(next(socket).await.to_text().unwrap()).unwrap()
}

async fn close_code(socket: &mut Socket) -> u16 {
    match next(socket).await {
        Message::Close(Some(frame)) => frame.code.into(),
        other => panic!("not a close: {other:?}"),
    }
}

#[tokio::test]
async fn output_comes_in_frames_and_then_the_exit() {
    let server = Server::start().await;
    server.asleep().await;
    let mut socket = connect(&server, PATH).await.unwrap();
    say(&mut socket, json!({ "command": ["echo", "hi"] })).await;
    let started = next_json(&mut socket).await;
    assert_eq!(started["type"], "started");
    assert_eq!(next(&mut socket).await.into_data(), &b"\x01hi"[..]);
    let exit = next_json(&mut socket).await;
    assert_eq!((&exit["type"], &exit["exit_code"]), (&"exit".into(), &0.into()));
    assert_eq!((&exit["signal"], &exit["timed_out"]), (&Value::Null, &false.into()));
    assert_eq!(exit["execution_id"], started["execution_id"]);
    assert_eq!(close_code(&mut socket).await, 1000);
}

#[tokio::test]
async fn standard_input_goes_in_and_signals_too() {
    let server = Server::start().await;
    server.awake().await;
    let mut socket = connect(&server, PATH).await.unwrap();
    say(&mut socket, json!({ "command": ["sleep", "60"], "stdin": true })).await;
    assert_eq!(next_json(&mut socket).await["type"], "started");
    socket.send(Message::binary(&b"\0knock"[..])).await.unwrap();
    assert_eq!(next(&mut socket).await.into_data(), &b"\x01knock"[..]);
    say(&mut socket, json!({ "type": "signal", "signal": 15 })).await;
    socket.send(Message::binary(Bytes::from_static(b"\0"))).await.unwrap();
    socket.send(Message::binary(&b"\0still here"[..])).await.unwrap();
    assert_eq!(next(&mut socket).await.into_data(), &b"\x01still here"[..]);
}

#[tokio::test]
async fn what_cannot_be_right_is_told_before_the_close() {
    let server = Server::start().await;
    server.awake().await;
    for bad in [json!({}), json!("ls"), json!({ "command": [1] })] {
        let mut socket = connect(&server, PATH).await.unwrap();
        say(&mut socket, bad).await;
        let error = next_json(&mut socket).await;
        assert_eq!(
            (&error["type"], &error["error_code"]),
            (&"error".into(), &"INVALID_REQUEST".into())
        );
        assert_eq!(close_code(&mut socket).await, 1008);
    }
    let mut socket = connect(&server, PATH).await.unwrap();
    say(&mut socket, json!({ "command": ["sleep", "60"], "stdin": true })).await;
    assert_eq!(next_json(&mut socket).await["type"], "started");
    socket.send(Message::binary(&b"\x07what"[..])).await.unwrap();
    assert_eq!(next_json(&mut socket).await["type"], "error");
    assert_eq!(close_code(&mut socket).await, 1008);
}

#[tokio::test]
async fn a_client_that_is_still_sending_learns_of_the_exit() {
    let server = Server::start().await;
    server.awake().await;
    let mut socket = connect(&server, PATH).await.unwrap();
    say(&mut socket, json!({ "command": ["head", "-1"], "stdin": true })).await;
    let mut frame = vec![7; 256 * 1024];
    frame[0] = 0;
    for _ in 0..16 {
        socket.send(Message::binary(frame.clone())).await.unwrap();
    }
    assert_eq!(next_json(&mut socket).await["type"], "started");
    assert_eq!(next(&mut socket).await.into_data(), &b"\x01-1"[..]);
    assert_eq!(next_json(&mut socket).await["type"], "exit");
    assert_eq!(close_code(&mut socket).await, 1000);
}

#[tokio::test]
async fn an_unknown_machine_is_told_before_the_upgrade() {
    let server = Server::start().await;
    let error = connect(&server, "/v1/machines/nobody/executions/attach").await.unwrap_err();
    assert!(matches!(error, Error::Http(reply) if reply.status() == 404));
    server.awake().await;
    let reply = server.get(PATH).await;
    assert_eq!(reply.status(), 426);
    assert_eq!(body(reply).await["error_code"], "UPGRADE_REQUIRED");
}
