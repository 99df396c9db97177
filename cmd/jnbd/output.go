package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// printJSON writes one object on one line. Field names of sizes end in _bytes; fields
// are only ever added.
func printJSON(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode json: %w", err)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// utcTime is a time in JSON: RFC 3339 in UTC, or null when there is none.
type utcTime time.Time

func (t utcTime) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(time.Time(t).UTC().Format(time.RFC3339Nano))
}

// String is the time for people.
func (t utcTime) String() string {
	if time.Time(t).IsZero() {
		return "never"
	}
	return time.Time(t).UTC().Format(time.RFC3339)
}

// fact is one line of a command's output for people.
type fact struct {
	name  string
	value any
}

// printFacts writes the facts below each other, values in one column.
func printFacts(w io.Writer, facts []fact) error {
	width := 0
	for _, f := range facts {
		width = max(width, len(f.name))
	}
	for _, f := range facts {
		if _, err := fmt.Fprintf(w, "%-*s  %v\n", width+1, f.name+":", f.value); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return nil
}

// hexID is a UUID or an epoch, in hexadecimal.
type hexID [16]byte

func (id hexID) String() string               { return fmt.Sprintf("%x", id[:]) }
func (id hexID) MarshalJSON() ([]byte, error) { return json.Marshal(id.String()) }
