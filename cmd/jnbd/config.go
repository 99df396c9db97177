package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A configuration file is TOML:
//
//	port = 10809                  # serve's flags, by their names
//	default = "data"              # the default export; else the first one
//
//	[export.data]                 # one table for each export
//	disk = "/srv/data.img"
//	mode = "ordered"              # flags that are about a disk
//
// Every key is a flag's name, but for disk, description and default. What is not known is an
// error that names its line: a setting that is silently ignored is worse than none.

// config is a configuration file as it was read.
type config struct {
	path     string
	settings []setting // outside of tables
	exports  []exportTable
}

// exportTable is one [export.NAME].
type exportTable struct {
	name     string
	line     int
	settings []setting
}

// setting is one key with its value.
type setting struct {
	key    string
	line   int
	values []string // one, but for an array
}

// maxConfigBytes bounds a file that may be anything, such as a disk named by mistake.
const maxConfigBytes = 1 << 20

// readConfig reads a file. It does not look at what keys mean.
func readConfig(path string) (*config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if info.Size() > maxConfigBytes {
		return nil, fmt.Errorf("config: %s has %d bytes, at most %d are a configuration", path, info.Size(), maxConfigBytes)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return parseConfig(path, content)
}

// parseConfig is readConfig's second half. The library's decoder checks the file and knows
// values but neither lines nor order; its parser knows those.
func parseConfig(path string, content []byte) (*config, error) {
	var values map[string]any
	if err := toml.Unmarshal(content, &values); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ := at.Position()
			return nil, usagef("%s:%d: %w", path, line, err)
		}
		return nil, usagef("%s: %w", path, err)
	}
	c := &config{path: path}
	parser := unstable.Parser{}
	parser.Reset(content)
	var table []string
	for parser.NextExpression() {
		e := parser.Expression()
		keys, line := keysOf(&parser, e)
		switch e.Kind {
		case unstable.Table:
			table = keys
			if err := c.addTable(keys, line); err != nil {
				return nil, err
			}
		case unstable.KeyValue:
			if err := c.addKey(values, append(append([]string{}, table...), keys...), line); err != nil {
				return nil, err
			}
		default:
			return nil, usagef("%s:%d: arrays of tables are not used here; write [export.NAME]", path, line)
		}
	}
	if err := parser.Error(); err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	return c, nil
}

// keysOf is the key of an expression in its parts, and its line.
func keysOf(parser *unstable.Parser, e *unstable.Node) (keys []string, line int) {
	for it := e.Key(); it.Next(); {
		key := it.Node()
		keys = append(keys, string(key.Data))
		line = parser.Shape(key.Raw).Start.Line
	}
	return keys, line
}

// addTable begins an export.
func (c *config) addTable(keys []string, line int) error {
	if len(keys) != 2 || keys[0] != "export" {
		return usagef("%s:%d: unknown table %q: want [export.NAME]", c.path, line, joinKeys(keys))
	}
	c.exports = append(c.exports, exportTable{name: keys[1], line: line})
	return nil
}

// addKey adds a setting where its key says.
func (c *config) addKey(values map[string]any, keys []string, line int) error {
	value := any(values)
	for _, key := range keys {
		table, ok := value.(map[string]any)
		if !ok {
			return usagef("%s:%d: %s is no table", c.path, line, joinKeys(keys))
		}
		value = table[key]
	}
	texts, err := textsOf(value)
	if err != nil {
		return usagef("%s:%d: %s: %w", c.path, line, joinKeys(keys), err)
	}
	s := setting{key: keys[len(keys)-1], line: line, values: texts}
	switch {
	case len(keys) == 1:
		c.settings = append(c.settings, s)
		return nil
	case len(keys) == 3 && keys[0] == "export":
		for i := range c.exports {
			if c.exports[i].name == keys[1] {
				c.exports[i].settings = append(c.exports[i].settings, s)
				return nil
			}
		}
		c.exports = append(c.exports, exportTable{keys[1], line, []setting{s}}) // export.NAME.key = …
		return nil
	}
	return usagef("%s:%d: unknown key %q", c.path, line, joinKeys(keys))
}

// textsOf writes a value as a flag reads it.
func textsOf(value any) ([]string, error) {
	switch v := value.(type) {
	case string:
		return []string{v}, nil
	case bool:
		return []string{strconv.FormatBool(v)}, nil
	case int64:
		return []string{strconv.FormatInt(v, 10)}, nil
	case []any:
		texts := []string{}
		for _, element := range v {
			text, err := textsOf(element)
			if err != nil || len(text) != 1 {
				return nil, errors.New("want an array of texts")
			}
			texts = append(texts, text[0])
		}
		return texts, nil
	}
	return nil, errors.New("want a text, a whole number, true or false, or an array of texts")
}

// joinKeys writes a key as the file does.
func joinKeys(keys []string) string {
	text := ""
	for i, key := range keys {
		if i > 0 {
			text += "."
		}
		text += key
	}
	return text
}
