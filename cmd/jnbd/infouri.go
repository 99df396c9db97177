package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"jnbd/nbd/nbdclient"
)

// uriTimeout bounds a look at another server.
const uriTimeout = 10 * time.Second

// isURI tells a URI from a path.
func isURI(target string) bool {
	return strings.HasPrefix(target, "nbd://") || strings.HasPrefix(target, "nbds://") ||
		strings.HasPrefix(target, "nbd+unix://") || strings.HasPrefix(target, "nbds+unix://")
}

// exportInfo is what a client sees of an export.
type exportInfo struct {
	URI            string   `json:"uri"`
	Export         string   `json:"export"`
	Description    string   `json:"description"`
	SizeBytes      int64    `json:"size_bytes"`
	ReadOnly       bool     `json:"read_only"`
	TLS            bool     `json:"tls"`
	Structured     bool     `json:"structured_replies"`
	Can            []string `json:"can"`
	Contexts       []string `json:"contexts"`
	MinBlock       uint32   `json:"min_block_bytes"` // 0: the server did not say
	PreferredBlock uint32   `json:"preferred_block_bytes"`
	MaxBlock       uint32   `json:"max_block_bytes"`
	Exports        []string `json:"exports"` // of the server; null if it does not tell
}

// abilities are the flags of an export that say what it can do.
var abilities = []struct {
	flag nbdclient.Flags
	name string
}{
	{nbdclient.CanFlush, "flush"},
	{nbdclient.CanFUA, "fua"},
	{nbdclient.CanTrim, "trim"},
	{nbdclient.CanZero, "zero"},
	{nbdclient.CanFastZero, "fast-zero"},
	{nbdclient.CanDF, "df"},
	{nbdclient.CanCache, "cache"},
	{nbdclient.CanMultiConn, "multi-conn"},
}

// askServer looks at an export as a client does, and reads nothing of it.
func askServer(ctx context.Context, target string) (*exportInfo, error) {
	uri, err := nbdclient.ParseURI(target)
	if err != nil {
		return nil, &usageError{err}
	}
	options, err := clientOptions(uri)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, uriTimeout)
	defer cancel()
	info, exports, err := lookAtExport(ctx, uri, options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	facts := &exportInfo{
		URI: target, Export: info.Name, Description: info.Description, SizeBytes: info.Size,
		ReadOnly: info.Has(nbdclient.ReadOnly), TLS: uri.TLS, Structured: info.Structured,
		Can: []string{}, Contexts: []string{},
		MinBlock: info.MinBlock, PreferredBlock: info.PreferredBlock, MaxBlock: info.MaxBlock,
		Exports: exports,
	}
	for _, a := range abilities {
		if info.Has(a.flag) {
			facts.Can = append(facts.Can, a.name)
		}
	}
	for _, name := range info.Contexts {
		facts.Contexts = append(facts.Contexts, name)
	}
	return facts, nil
}

// lookAtExport asks for the list of exports, which many servers refuse, and then for the one
// of the URI, and leaves in order.
func lookAtExport(ctx context.Context, uri nbdclient.URI, options nbdclient.Options) (info nbdclient.Info, exports []string, err error) {
	options.Contexts = []string{"base:allocation"}
	h, err := nbdclient.Dial(ctx, uri, options)
	if err != nil {
		return info, nil, err
	}
	defer h.Close() // after Go it does nothing
	list, err := h.List(ctx)
	var refused *nbdclient.RefusedError
	switch {
	case err == nil:
		exports = []string{}
		for _, x := range list {
			exports = append(exports, x.Name)
		}
	case !errors.As(err, &refused):
		return info, nil, err
	}
	conn, info, err := h.Go(ctx, uri.Export)
	if err != nil {
		return info, nil, err
	}
	return info, exports, nbdclient.NewClient(conn, info).Disconnect()
}

// lines is the same for people.
func (x *exportInfo) lines() []fact {
	blocks := "not told"
	if x.MaxBlock > 0 {
		blocks = fmt.Sprintf("%s at least, %s preferred, %s at most",
			humanSize(int64(x.MinBlock)), humanSize(int64(x.PreferredBlock)), humanSize(int64(x.MaxBlock)))
	}
	lines := []fact{
		{"uri", x.URI},
		{"export", fmt.Sprintf("%q", x.Export)},
		{"size", fmt.Sprintf("%s (%d bytes)", humanSize(x.SizeBytes), x.SizeBytes)},
		{"read-only", yesNo(x.ReadOnly)},
		{"tls", yesNo(x.TLS)},
		{"structured replies", yesNo(x.Structured)},
		{"can", strings.Join(x.Can, ", ")},
		{"contexts", strings.Join(x.Contexts, ", ")},
		{"block sizes", blocks},
	}
	if x.Description != "" {
		lines = append(lines, fact{"description", x.Description})
	}
	if x.Exports == nil {
		return append(lines, fact{"all exports", "not told"})
	}
	return append(lines, fact{"all exports", fmt.Sprintf("%q", x.Exports)})
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
