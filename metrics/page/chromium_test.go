package page_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"jnbd/testtool"
)

// patience is how long the browser may take for anything. It is only met when it hangs.
const patience = 60 * time.Second

// browser is a headless Chromium with one page, talked to by its DevTools protocol over a
// pair of pipes.
type browser struct {
	t       *testing.T
	in      *os.File
	replies chan message
	session string
	last    int
	// complaints are errors and warnings of the page, as the browser's console has them.
	complaints []string
}

// message is a reply or an event of the protocol.
type message struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct{ Message string }
}

// startBrowser starts Chromium with an empty profile. The test's end ends it.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	testtool.Need(t, "chromium")
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--force-color-profile=srgb", "--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // descriptors 3 and 4, as the flag has it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	b := &browser{t: t, in: ourOut, replies: make(chan message, 1000)}
	read := make(chan struct{})
	go func() { // ends with the browser's end of the pipe
		defer close(read)
		defer close(b.replies)
		b.read(bufio.NewReader(ourIn))
	}()
	t.Cleanup(func() {
		_ = b.send("", "Browser.close", nil)
		ended := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		cmd.Wait() // an error says how it ended, and it did
		ended.Stop()
		ourOut.Close()
		ourIn.Close()
		<-read
	})

	var target struct{ TargetID string }
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.do("Runtime.enable", nil, nil)
	b.do("Log.enable", nil, nil)
	b.do("Page.enable", nil, nil)
	return b
}

func (b *browser) read(from *bufio.Reader) {
	for {
		text, err := from.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(text[:len(text)-1], &m) == nil {
			b.replies <- m
		}
	}
}

func (b *browser) send(session, method string, params any) error {
	b.last++
	m := map[string]any{"id": b.last, "method": method}
	if session != "" {
		m["sessionId"] = session
	}
	if params != nil {
		m["params"] = params
	}
	text, err := json.Marshal(m)
	if err == nil {
		_, err = b.in.Write(append(text, 0))
	}
	return err
}

// call asks the browser for something and waits for the answer.
func (b *browser) call(session, method string, params, result any) {
	b.t.Helper()
	if err := b.send(session, method, params); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	late := time.After(patience)
	for {
		select {
		case m, ok := <-b.replies:
			switch {
			case !ok:
				b.t.Fatalf("%s: the browser has ended", method)
			case m.ID == 0:
				b.hear(m)
			case m.ID == b.last && m.Error != nil:
				b.t.Fatalf("%s: %s", method, m.Error.Message)
			case m.ID == b.last:
				if result != nil {
					if err := json.Unmarshal(m.Result, result); err != nil {
						b.t.Fatalf("%s: %v", method, err)
					}
				}
				return
			}
		case <-late:
			b.t.Fatalf("%s: no answer", method)
		}
	}
}

// hear keeps what the console complains about.
func (b *browser) hear(m message) {
	switch m.Method {
	case "Runtime.exceptionThrown", "Log.entryAdded":
		b.complaints = append(b.complaints, string(m.Params))
	case "Runtime.consoleAPICalled":
		if !strings.Contains(string(m.Params), `"type":"log"`) {
			b.complaints = append(b.complaints, string(m.Params))
		}
	}
}

// do calls a method of the page.
func (b *browser) do(method string, params, result any) {
	b.t.Helper()
	b.call(b.session, method, params, result)
}

// open goes to a URL with a window of that size.
func (b *browser) open(url string, width, height int) {
	b.t.Helper()
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.do("Page.navigate", map[string]any{"url": url}, nil)
}

// prefer makes the system's theme light or dark.
func (b *browser) prefer(theme string) {
	b.t.Helper()
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": theme}}}, nil)
}

// eval is the value of an expression in the page, as text.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value any }
		ExceptionDetails any
	}
	b.do("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		b.t.Fatalf("%s: %v", expression, answer.ExceptionDetails)
	}
	return fmt.Sprint(answer.Result.Value)
}

// await waits until an expression is true.
func (b *browser) await(expression string) {
	b.t.Helper()
	for began := time.Now(); b.eval("Boolean("+expression+")") != "true"; {
		if time.Since(began) > patience {
			b.t.Fatalf("%s has not come true; the page says\n%s", expression, b.eval("document.body.innerText"))
		}
	}
}

// picture is a PNG of the window.
func (b *browser) picture() []byte {
	b.t.Helper()
	var shot struct{ Data string }
	b.do("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	return png
}
