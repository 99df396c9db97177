package main

import (
	"strings"
	"testing"
)

// A request need not wait for those that were not answered when it came.
func TestTranslate(t *testing.T) {
	const log = `2026-11-21 13:17:49.759045 Ready thread_model=3
2026-11-21 13:17:50.706232 connection=1 Connect export="" tls=0 size=0x10000000
2026-11-21 13:17:50.706731 connection=1 Write id=1 offset=0x2000 count=0x1000 fua=0 ...
2026-11-21 13:17:50.706732 connection=1 Write id=2 offset=0x0 count=0x200 fua=1 ...
2026-11-21 13:17:50.707866 connection=1 ...Write id=2 return=0
2026-11-21 13:17:50.707944 connection=1 Read id=3 offset=0x0 count=0x200 ...
2026-11-21 13:17:50.707945 connection=1 ...Write id=1 return=0
2026-11-21 13:17:50.709037 connection=1 ...Read id=3 return=0
2026-11-21 13:17:50.709121 connection=1 Flush id=4 ...
2026-11-21 13:17:50.710147 connection=1 ...Flush id=4 return=0
2026-11-21 13:17:50.710214 connection=1 Trim id=5 offset=0x0 count=0x10000 fua=0 ...
2026-11-21 13:17:50.714016 connection=1 Zero id=6 offset=0x1000 count=0x10000 trim=1 fua=0 fast=0 ...
2026-11-21 13:17:50.731693 connection=1 Disconnect transactions=5
`
	const want = `jnbd-trace-1 1000
w 16 8 0
W 0 1 1
r 0 1 2
f 0 0 0
t 0 128 0
z 8 128 1
`
	var got strings.Builder
	if err := translate(strings.NewReader(log), &got, 1000); err != nil || got.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got.String(), want)
	}
	failed := strings.Replace(log, "...Flush id=4 return=0", "...Flush id=4 return=-1 error=EIO", 1)
	if err := translate(strings.NewReader(failed), &got, 1000); err == nil {
		t.Error("a failed request is part of a trace")
	}
}
