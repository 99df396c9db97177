package human

import (
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{Size(0), "0 B"},
		{Size(1023), "1023 B"},
		{Size(1536), "1.5 KiB"},
		{Size(5 << 40), "5.0 TiB"},
		{Size(5000 << 40), "5000.0 TiB"},
		{Rate(1.5 * (1 << 20)), "1.5 MiB/s"},
		{Duration(0), "0 µs"},
		{Duration(999 * time.Microsecond), "999 µs"},
		{Duration(1500 * time.Microsecond), "1.5 ms"},
		{Duration(25 * time.Millisecond), "25 ms"},
		{Duration(2500 * time.Millisecond), "2.5 s"},
		{Duration(43 * time.Second), "43 s"},
		{Age(-time.Second), "0 s"},
		{Age(59 * time.Second), "59 s"},
		{Age(61 * time.Second), "1 min 1 s"},
		{Age(3*time.Hour + 12*time.Minute), "3 h 12 min"},
		{Age(50 * time.Hour), "2 d 2 h"},
		{Count(0), "0"},
		{Count(2.25), "2.2"},
		{Count(999), "999"},
		{Count(1234567), "1 234 567"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}
