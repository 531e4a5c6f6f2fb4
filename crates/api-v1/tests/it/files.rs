use std::io;

use reqwest::{Body, Method};
use serde_json::json;

use crate::server::{Server, header, json};

const FS: &str = "/v1/machines/hello/fs";

fn at(path: &str) -> String {
    format!("{FS}/{path}")
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out() {
    let server = Server::start().await;
    server.awake().await;
    let reply = server.put(&at("src/main.rs?mode=0755"), "fn main() {}").await;
    assert_eq!(reply.status(), 201);
    let etag = header(&reply, "etag").to_owned();
    let written = json(reply).await;
    assert_eq!((&written["created"], &written["mode"]), (&true.into(), &"0755".into()));
    assert_eq!(server.put(&at("src/main.rs"), "fn main() {}").await.status(), 200);
    let reply = server.get(&at("src/main.rs")).await;
    assert_ne!(header(&reply, "etag"), etag);
    for (name, value) in [
        ("x-fs-type", "file"),
        ("x-fs-mode", "0755"),
        ("x-fs-size", "12"),
        ("content-length", "12"),
        ("content-type", "application/octet-stream"),
        ("accept-ranges", "bytes"),
        ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ] {
        assert_eq!(header(&reply, name), value, "{name}");
    }
    assert_eq!(reply.text().await.unwrap(), "fn main() {}");
    let head = server.ask(Method::HEAD, &at("src")).send().await.unwrap();
    assert_eq!((head.status().as_u16(), header(&head, "x-fs-type")), (200, "directory"));
    let head = server.ask(Method::HEAD, &at("src/main.rs")).send().await.unwrap();
    assert_eq!((header(&head, "x-fs-size"), header(&head, "content-length")), ("12", "12"));
    assert_eq!(server.ask(Method::HEAD, &at("none")).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_range_is_one_part_of_a_file() {
    let server = Server::start().await;
    server.awake().await;
    server.put(&at("f"), "0123456789").await;
    let range = async |range: &str, more: &[(&'static str, &str)]| {
        let request = server.ask(Method::GET, &at("f")).header("range", range);
        let request =
            more.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let reply = request.send().await.unwrap();
        let told = header(&reply, "content-range").to_owned();
        (reply.status().as_u16(), told, reply.text().await.unwrap())
    };
    let part = |told: &str, text: &str| (206, told.to_owned(), text.to_owned());
    let whole = || (200, String::new(), "0123456789".to_owned());
    assert_eq!(range("bytes=2-4", &[]).await, part("bytes 2-4/10", "234"));
    assert_eq!(range("bytes=8-99", &[]).await, part("bytes 8-9/10", "89"));
    assert_eq!(range("bytes=-3", &[]).await, part("bytes 7-9/10", "789"));
    assert_eq!(range("bytes=1-2,4-5", &[]).await, whole());
    let (status, told, _) = range("bytes=10-", &[]).await;
    assert_eq!((status, told.as_str()), (416, "bytes */10"));
    assert_eq!(range("bytes=0-1", &[("if-range", "\"v1\"")]).await, part("bytes 0-1/10", "01"));
    assert_eq!(range("bytes=0-1", &[("if-range", "\"old\"")]).await, whole());
    assert_eq!(range("bytes=99-", &[("if-range", "\"old\"")]).await, whole());
}

#[tokio::test]
async fn a_version_that_the_client_has_is_not_sent_again() {
    let server = Server::start().await;
    server.awake().await;
    server.put(&at("f"), "x").await;
    for method in [Method::GET, Method::HEAD] {
        let ask = |name: &'static str, tag: &'static str| {
            server.ask(method.clone(), &at("f")).header(name, tag).send()
        };
        let same = ask("if-none-match", "W/\"v1\", \"other\"").await.unwrap();
        assert_eq!((same.status().as_u16(), header(&same, "etag")), (304, "\"v1\""));
        assert_eq!(same.text().await.unwrap(), "");
        assert_eq!(ask("if-none-match", "\"v2\"").await.unwrap().status(), 200);
        assert_eq!(ask("if-match", "\"v2\"").await.unwrap().status(), 412);
    }
}

#[tokio::test]
async fn a_write_can_say_what_it_expects() {
    let server = Server::start().await;
    server.awake().await;
    let put = async |name: &'static str, tag: &'static str| {
        let request = server.ask(Method::PUT, &at("f")).header(name, tag).body("x");
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(put("if-match", "*").await, 412);
    assert_eq!(put("if-none-match", "*").await, 201);
    assert_eq!(put("if-none-match", "*").await, 412);
    assert_eq!(put("if-match", "\"v1\"").await, 200);
    assert_eq!(put("if-match", "\"v1\"").await, 412);
    assert_eq!(put("if-match", "v2").await, 200);
    assert_eq!((put("if-match", "").await, put("if-none-match", " ").await), (400, 400));
    assert_eq!(put("content-range", "bytes 0-0/1").await, 400);
}

#[tokio::test]
async fn a_path_that_could_mean_another_place_is_refused_by_name() {
    let server = Server::start().await;
    server.awake().await;
    for (path, named) in [
        ("a/../../etc/passwd", ".."),
        ("%2e%2e/etc/passwd", ".."),
        ("./a", "\".\""),
        ("a%2Fb", "a%2Fb"),
        ("a//b", "empty"),
        ("/a", "empty"),
        ("a%00b", "NUL"),
        ("50%", "50%"),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let (status, body) = server.raw(method, &at(path)).await;
            let message = body["message"].as_str().unwrap_or_default();
            assert!(
                status == 400 && message.contains(named),
                "{method} {path}: {status} {message}"
            );
        }
    }
    let long = "x".repeat(256);
    assert_eq!(server.put(&at(&long), "x").await.status(), 400);
}

#[tokio::test]
async fn names_are_bytes() {
    let server = Server::start().await;
    server.awake().await;
    for name in ["%FF%FE", "with%20space", "%25", "ünï", "fs", "a%3Fb"] {
        assert_eq!(server.put(&at(name), "x").await.status(), 201, "{name}");
        assert_eq!(server.get(&at(name)).await.status(), 200, "{name}");
    }
}

#[tokio::test]
async fn a_directory_where_a_file_is_needed_is_a_conflict_that_names_it() {
    let server = Server::start().await;
    server.awake().await;
    server.put(&at("dir/f"), "x").await;
    for reply in [
        server.get(&at("dir")).await,
        server.put(&at("dir"), "x").await,
        server.get(FS).await,
        server.delete(&at("dir")).await,
    ] {
        let status = reply.status();
        let body = json(reply).await;
        let message = body["message"].as_str().unwrap();
        assert!(status == 409 && (message.contains("dir") || message.contains("home")), "{body}");
    }
    let reply = server.delete(&at("dir?recursive=true")).await;
    assert_eq!(reply.status(), 200);
    assert_eq!(json(reply).await["type"], "directory");
    assert_eq!(server.get(&at("dir/f")).await.status(), 404);
    assert_eq!(server.delete(&at("")).await.status(), 405);
}

#[tokio::test]
async fn a_directory_is_listed_in_pages() {
    let server = Server::start().await;
    server.awake().await;
    for name in ["d/a", "d/b", "d/c/x"] {
        server.put(&at(name), "12").await;
    }
    let page = json(server.get(&at("d?list=true&limit=2")).await).await;
    assert_eq!(page["items"][0]["name"], "a");
    assert_eq!((&page["items"][0]["type"], &page["items"][0]["size"]), (&"file".into(), &2.into()));
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = json(server.get(&at(&format!("d?list=true&cursor={cursor}"))).await).await;
    assert_eq!(
        (&page["items"][0]["name"], &page["items"][0]["type"]),
        (&"c".into(), &"directory".into())
    );
    assert!(page.get("next_cursor").is_none());
    for root in [FS.to_owned(), at("")] {
        let page = json(server.get(&format!("{root}?list")).await).await;
        assert_eq!(page["items"][0]["name"], "d");
    }
    assert_eq!(server.get(&at("d?list=maybe")).await.status(), 400);
}

#[tokio::test]
async fn trees_travel_as_tar() {
    let server = Server::start().await;
    server.awake().await;
    // The home of this test takes lines in place of a tar.
    for path in [format!("{FS}?import=tar"), at("?import=tar"), at("sub?import=tar")] {
        let reply =
            server.ask(Method::POST, &path).body("t/a\tone\nt/b\ttwo\n").send().await.unwrap();
        assert_eq!(reply.status(), 200);
        assert_eq!(json(reply).await["entries"], 2);
    }
    let reply = server.get(&format!("{FS}?bundle=tar")).await;
    assert_eq!(header(&reply, "content-type"), "application/x-tar");
    assert!(reply.text().await.unwrap().contains("t/a\tone"));
    assert_eq!(server.get(&at("t?bundle=tar")).await.status(), 200);
    assert_eq!(server.get(&at("t?bundle=zip")).await.status(), 400);
    assert_eq!(server.post(FS, json!({})).await.status(), 400);
}

#[tokio::test]
async fn asleep_writes_stay_private_until_they_are_published() {
    let server = Server::start().await;
    server.awake().await;
    server.put(&at("f"), "old").await;
    assert_eq!(
        server.ask(Method::POST, "/v1/machines/hello/sleep").send().await.unwrap().status(),
        200
    );
    assert_eq!(server.put(&at("f"), "new").await.status(), 200);
    let read =
        async |query: &str| server.get(&at(&format!("f{query}"))).await.text().await.unwrap();
    assert_eq!((read("").await, read("?draft=true").await), ("old".into(), "new".into()));
    let report = json(server.ask(Method::POST, &at("publish")).send().await.unwrap()).await;
    assert_eq!((&report["published"], &report["changed"]), (&true.into(), &1.into()));
    assert_eq!(read("").await, "new");
    let report =
        json(server.ask(Method::POST, "/v1/machines/hello/publish").send().await.unwrap()).await;
    assert_eq!(report["published"], false);
    for path in [at("draft"), "/v1/machines/hello/draft".to_owned()] {
        server.put(&at("f"), "newer").await;
        assert_eq!(json(server.delete(&path).await).await["discarded"], true);
        assert_eq!(json(server.delete(&path).await).await["discarded"], false);
        assert_eq!(read("?draft=true").await, "new");
    }
}

#[tokio::test]
async fn files_can_be_called_publish_and_draft() {
    let server = Server::start().await;
    server.awake().await;
    for name in ["publish", "draft"] {
        assert_eq!(server.put(&at(name), name).await.status(), 201);
        assert_eq!(server.get(&at(name)).await.text().await.unwrap(), name);
        assert_eq!(server.delete(&at(&format!("{name}?recursive=false"))).await.status(), 200);
        assert_eq!(server.get(&at(name)).await.status(), 404);
        assert_eq!(server.put(&at(&format!("{name}/below")), "x").await.status(), 201);
    }
    let reply =
        server.ask(Method::POST, &at("publish?import=tar")).body("p\t1\n").send().await.unwrap();
    assert_eq!(json(reply).await["entries"], 1);
}

#[tokio::test]
async fn a_cut_off_upload_changes_nothing() {
    let server = Server::start().await;
    server.awake().await;
    server.put(&at("f"), "before").await;
    let pieces = [Ok("half"), Err(io::Error::other("gone"))];
    let body = Body::wrap_stream(futures::stream::iter(pieces));
    assert!(server.ask(Method::PUT, &at("f")).body(body).send().await.is_err());
    assert_eq!(server.get(&at("f")).await.text().await.unwrap(), "before");
}

#[tokio::test]
async fn large_bodies_are_not_refused() {
    let server = Server::start().await;
    server.awake().await;
    let pieces = (0..64).map(|_| Ok::<_, io::Error>(vec![7_u8; 256 * 1024]));
    let body = Body::wrap_stream(futures::stream::iter(pieces));
    let reply = server.ask(Method::PUT, &at("big")).body(body).send().await.unwrap();
    assert_eq!(reply.status(), 201);
    let bytes = server.get(&at("big")).await.bytes().await.unwrap();
    assert!(bytes.len() == 16 << 20 && bytes.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn the_mode_is_checked_before_anything_is_written() {
    let server = Server::start().await;
    server.awake().await;
    for mode in ["9", "77777", "rwx", ""] {
        assert_eq!(server.put(&at(&format!("f?mode={mode}")), "x").await.status(), 400, "{mode}");
    }
    assert_eq!(server.get(&at("f")).await.status(), 404);
}
