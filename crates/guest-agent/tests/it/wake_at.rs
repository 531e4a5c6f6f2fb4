//! The guest says when it wants to be woken.

use base::Timestamp;
use runtime::{Exit, Network};

use crate::agent::soon;
use crate::boot::shell;
use crate::guest::{Guest, image};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_asks_to_be_woken() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::None).await;
    let asked = async || soon(guest.client.wake_at()).await.unwrap();
    assert_eq!(asked().await, None);

    let said = shell(&guest, "date +%s; dormouse-agent wake-at +1h; date +%s").await;
    let times: Vec<i64> = said.lines().map(|line| line.parse().unwrap()).collect();
    let at = asked().await.unwrap();
    assert!((times[0] + 3600..=times[1] + 3601).contains(&at), "{at} in {times:?}");
    let printed: Timestamp = shell(&guest, "dormouse-agent wake-at").await.parse().unwrap();
    assert_eq!(printed.as_second(), at);

    let refused = shell(&guest, "dormouse-agent wake-at yesterday 2>&1; echo $?").await;
    assert!(refused.contains("write one like") && refused.ends_with("\n2"), "{refused}");
    let refused = shell(&guest, "dormouse-agent wake-at @1 2>&1; echo $?").await;
    assert!(refused.contains("is over") && refused.ends_with("\n2"), "{refused}");
    assert_eq!(asked().await, Some(at), "what is refused changes nothing");

    shell(&guest, "dormouse-agent wake-at never").await;
    assert_eq!(asked().await, None);
    assert_eq!(shell(&guest, "dormouse-agent wake-at").await, "");

    // What its root writes there itself.
    assert_eq!(shell(&guest, "echo 1 > /run/dormouse/wake-at").await, "");
    assert_eq!(asked().await, None);
    assert_eq!(shell(&guest, "ls /run/dormouse").await, "bin", "it is over and gone");
    shell(&guest, "mkfifo /run/dormouse/wake-at").await;
    assert_eq!(asked().await, None);
    shell(&guest, "rm /run/dormouse/wake-at; head -c 9000000 /dev/zero > /run/dormouse/wake-at")
        .await;
    assert_eq!(asked().await, None);

    // The program is the file of the initramfs, and stays as it is.
    let mounts = shell(&guest, "grep dormouse/bin /proc/mounts").await;
    assert!(mounts.starts_with("rootfs /run/dormouse/bin/dormouse-agent rootfs ro,"), "{mounts}");
    let program = "/run/dormouse/bin/dormouse-agent";
    let script = format!(
        "if echo > {program} || rm {program}; then exit 1; fi 2>/dev/null; cmp {program} /proc/1/exe"
    );
    shell(&guest, &script).await;
    let console = guest.console();
    assert_eq!(guest.shut_down().await, Exit::PoweredOff, "{console}");
    assert!(crate::guest::console_of(dir.path()).contains("dormouse-agent: unmounted"));
}
