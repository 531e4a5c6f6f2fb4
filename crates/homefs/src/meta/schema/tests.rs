use super::*;
use crate::meta::sql::{first, run};

/// The tables of format 1, as they were.
fn format_1() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    let without = DDL
        .replace(
            "seq INTEGER NOT NULL, born INTEGER NOT NULL DEFAULT 0, live INTEGER NOT NULL DEFAULT 0,\n  \
             blocks BLOB",
            "seq INTEGER NOT NULL",
        )
        .replace(
            "stored INTEGER NOT NULL,\n  born INTEGER NOT NULL DEFAULT 0, refs INTEGER NOT NULL \
             DEFAULT 0, blocks BLOB",
            "stored INTEGER NOT NULL",
        );
    assert!(!without.contains("born") && !without.contains("blocks"));
    conn.execute_batch(&without).unwrap();
    conn.execute_batch(
        "INSERT INTO kv VALUES('format',1);
         INSERT INTO pack VALUES(1,1,100,1,0),(2,1,100,2,7),(3,1,50,1,0);
         INSERT INTO chunk VALUES(x'01',10,1),(x'02',10,1);
         INSERT INTO extent VALUES(5,0,30,1,NULL,0),(5,30,10,1,NULL,0),(6,0,7,2,NULL,0),
           (6,7,10,NULL,x'01',0),(6,17,10,NULL,x'01',0);",
    )
    .unwrap();
    conn
}

fn format_2() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    create(&conn, 0).unwrap();
    conn.execute_batch(
        "PRAGMA recursive_triggers=ON;
         INSERT INTO pack(id,epoch,len,place,seq) VALUES(1,1,100,1,0),(2,1,100,1,0);
         INSERT INTO chunk(digest,len,stored) VALUES(x'01',10,1),(x'02',10,1);",
    )
    .unwrap();
    conn
}

fn live(conn: &Connection) -> (Vec<i64>, Vec<i64>) {
    let all = |sql| crate::meta::sql::all(conn, sql, [], |r| r.get(0)).unwrap();
    (all("SELECT live FROM pack ORDER BY id"), all("SELECT refs FROM chunk ORDER BY digest"))
}

/// What the counts must be, from the extents themselves.
fn counted(conn: &Connection) -> (Vec<i64>, Vec<i64>) {
    let all = |sql| crate::meta::sql::all(conn, sql, [], |r| r.get(0)).unwrap();
    (
        all(
            "SELECT COALESCE((SELECT sum(len) FROM extent WHERE pack=p.id),0) FROM pack p ORDER BY id",
        ),
        all(
            "SELECT (SELECT count(*) FROM extent WHERE digest=c.digest) FROM chunk c ORDER BY digest",
        ),
    )
}

#[test]
fn what_is_live_is_counted_whatever_way_an_extent_changes() {
    let conn = format_2();
    let steps = [
        "INSERT INTO extent VALUES(5,0,30,1,NULL,0),(5,30,10,2,NULL,0),(5,40,10,NULL,x'01',0)",
        "INSERT OR REPLACE INTO extent VALUES(5,0,20,2,NULL,0)",
        "REPLACE INTO extent VALUES(5,40,5,NULL,x'02',0)",
        "INSERT OR IGNORE INTO extent VALUES(5,40,9,1,NULL,0)",
        "INSERT INTO extent VALUES(5,0,1,1,NULL,0) ON CONFLICT(ino,off) DO UPDATE SET len=11,pack=1",
        "UPDATE extent SET pack=NULL, digest=x'01' WHERE off=30",
        "UPDATE extent SET len=len-1",
        "UPDATE OR REPLACE extent SET off=0 WHERE off=30",
        "UPDATE extent SET ino=9",
        "DELETE FROM extent WHERE off=0",
        "DELETE FROM extent",
    ];
    for step in steps {
        run(&conn, step, []).unwrap();
        assert_eq!(live(&conn), counted(&conn), "{step}");
    }
    assert_eq!(live(&conn), (vec![0, 0], vec![0, 0]));
}

#[test]
fn format_1_is_brought_forward_with_its_counts_and_only_once() {
    let conn = format_1();
    check(&conn).unwrap();
    assert!(migrate(&conn).unwrap());
    assert_eq!(live(&conn), (vec![40, 7, 0], vec![2, 0]));
    assert_eq!(live(&conn), counted(&conn));
    assert_eq!(format(&conn).unwrap(), Some(FORMAT));
    assert!(!migrate(&conn).unwrap());
    // Born before everything, stored raw.
    let odd = "SELECT 1 FROM pack,chunk WHERE pack.born OR chunk.born OR pack.blocks IS NOT NULL";
    assert_eq!(first(&conn, odd, [], |_| Ok(())).unwrap(), None);
    run(&conn, "DELETE FROM extent WHERE ino=6", []).unwrap();
    assert_eq!(live(&conn), (vec![40, 0, 0], vec![0, 0]));
}

#[test]
fn both_formats_have_the_same_shape_in_the_end() {
    let shape = |conn: &Connection| {
        let columns = "SELECT m.name||'.'||c.name||c.type||c.\"notnull\" FROM sqlite_schema m, \
             pragma_table_info(m.name) c WHERE m.type='table' ORDER BY 1";
        let others = "SELECT type||name FROM sqlite_schema WHERE type<>'table' ORDER BY 1";
        let all = |sql| crate::meta::sql::all(conn, sql, [], |r| r.get::<_, String>(0)).unwrap();
        (all(columns), all(others))
    };
    let old = format_1();
    migrate(&old).unwrap();
    assert_eq!(shape(&old), shape(&format_2()));
}

#[test]
fn format_1_is_read_as_it_is() {
    let conn = format_1();
    adapt(&conn).unwrap();
    check(&conn).unwrap();
    let sql = "SELECT p.born,p.live,p.blocks IS NULL,c.born,c.refs,c.blocks IS NULL \
         FROM pack p, chunk c WHERE p.id=2 AND c.digest=x'01'";
    let row = first(&conn, sql, [], |r| {
        Ok([0, 1, 2, 3, 4, 5].map(|column| r.get::<_, i64>(column).unwrap()))
    });
    assert_eq!(row.unwrap(), Some([0, 100, 1, 0, 1, 1]));
    assert_eq!(first(&conn, "SELECT 1 FROM grave", [], |_| Ok(())).unwrap(), None);
    assert!(run(&conn, "UPDATE kv SET value=3", []).is_err(), "it only reads");
}

#[test]
fn an_unknown_format_is_refused() {
    for found in [0, FORMAT + 1] {
        let conn = format_2();
        run(&conn, "UPDATE kv SET value=?1 WHERE name='format'", [found]).unwrap();
        assert_eq!(check(&conn).unwrap_err().kind(), base::ErrorKind::Unsupported);
    }
}
