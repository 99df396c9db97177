package workload

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Schema makes the database. In WAL mode with synchronous=FULL every commit is durable when
// it returns.
const Schema = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; " +
	"CREATE TABLE t(id INTEGER PRIMARY KEY, changed INTEGER, body BLOB);"

// Settings are those that a connection must set for itself.
const Settings = "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=40;"

// DumpRows prints the table as TableRows does.
const DumpRows = "SELECT id, changed, hex(body) FROM t ORDER BY id;"

// Transaction is transaction number n, from 1 on: a new row, and an older one changed.
func Transaction(n int) string {
	return fmt.Sprintf("BEGIN; INSERT INTO t VALUES(%d, 0, x'%s'); UPDATE t SET changed=%d WHERE id=%d; COMMIT;",
		n, body(n), n, n/2+1)
}

// TableRows is what DumpRows prints after the first n transactions.
func TableRows(n int) string {
	changed := make([]int, n+2)
	for i := range n {
		changed[(i+1)/2+1] = i + 1
	}
	var text strings.Builder
	for id := 1; id <= n; id++ {
		fmt.Fprintf(&text, "%d|%d|%s\n", id, changed[id], body(id))
	}
	return text.String()
}

// CheckRows says what is wrong with a table after a crash, or nil. done transactions had been
// acknowledged, and one more may have been committed.
func CheckRows(done int, dump string) error {
	for _, n := range []int{done, done + 1} {
		if dump == TableRows(n) {
			return nil
		}
	}
	return fmt.Errorf("%d transactions acknowledged: the table has %d rows and is neither as after %d nor as after %d",
		done, strings.Count(dump, "\n"), done, done+1)
}

// body is the content of row n, up to 6 KiB, in hexadecimal.
func body(n int) string {
	random := rand.New(rand.NewPCG(uint64(n), 13))
	var text strings.Builder
	for range 1 + random.IntN(1<<(4+random.IntN(9))) {
		fmt.Fprintf(&text, "%02X", byte(random.Uint32()))
	}
	return text.String()
}
