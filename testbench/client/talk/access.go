package talk

import (
	"path/filepath"

	"millrace/testbench/client/board"
)

func (l *lane) refused(what string, c Connect, four, five int) {
	l.Helper()
	want := four
	if l.five() {
		want = five
	}
	c.Filters = []Filter{{Filter: l.base + "/#"}}
	if p := l.try(c); p.answer.Code != want {
		l.Errorf("%s is answered with %+v, want %#x", what, p.answer, want)
	}
}

func passwords(l *lane) {
	wrong := l.connect("wrong")
	wrong.Password = "wrong password"
	l.refused("a wrong password", wrong, 4, 0x86)
	nobody := l.connect("nobody")
	nobody.User, nobody.Password = "", ""
	l.refused("nobody", nobody, 5, 0x87)
}

// certificate: the holder of Ann's certificate is Ann, that of another authority's nobody.
func certificate(l *lane) {
	shows := func(name string) func(*Connect) {
		return func(c *Connect) {
			c.User, c.Password = "", ""
			c.Cert, c.Key = filepath.Join(l.board.Certs, name+".crt"), filepath.Join(l.board.Certs, name+".key")
		}
	}
	r := l.dial("reader", shows(board.Ann))
	l.dial("writer", shows(board.Ann), func(c *Connect) { c.Filters = nil }).publish(end, "end")
	r.wants(end)
	c := l.connect("stranger")
	shows("stranger")(&c)
	c.Filters = []Filter{{Filter: l.base + "/#"}}
	if p := l.try(c); p.answer.Code == 0 {
		l.Error("a stranger's certificate lets in")
	}
}

func scram(l *lane) {
	for _, method := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		c := l.connect(method)
		c.Method = method
		r := l.dial(method, func(d *Connect) { *d = c; d.Filters = []Filter{{Filter: l.base + "/#", QoS: 1}} })
		l.writer().publish(end, "end")
		r.wants(end)
		r.End("leave")
		c.Password = "wrong password"
		l.refused("a wrong password with "+method, c, 0, 0x86)
	}
	c := l.connect("none")
	c.Method = "SCRAM-SHA-1"
	l.refused("a method there is not", c, 0, 0x8C)
}

func permissions(l *lane) {
	denied, refused := 0x80, -1
	if l.five() {
		denied, refused = 0x87, 0x87
	}
	c := l.connect("reader")
	c.Filters = []Filter{{Filter: "shut/#", QoS: 1}}
	if p := l.try(c); len(p.answer.Codes) != 1 || p.answer.Codes[0] != denied {
		l.Errorf("a denied filter is answered with %+v", p.answer)
	}
	if a := l.writer().Publish(Message{Topic: "shut/x", QoS: 1}, []string{"no"})[0]; a.Code != refused {
		l.Errorf("a denied publish is answered with %+v", a)
	}
	will := Message{Topic: "shut/x", Payload: "no"}
	c = l.connect("will")
	c.Will = &will
	l.refused("a denied will", c, 5, 0x87)
}
