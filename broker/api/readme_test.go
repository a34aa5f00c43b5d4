package api

import (
	"fmt"
	"strings"
	"unicode"

	"millrace/broker/wire"
)

// tableOf is the table of README.md.
func tableOf(apis []wire.API) string {
	var b strings.Builder
	for _, a := range apis {
		fmt.Fprintf(&b, "| %d | %s | %d-%d | [%s](%s) |\n", a.Key, a.Name, a.Min, a.Max, fileOf(a), fileOf(a))
	}
	return b.String()
}

// fileOf is the file an API is answered in.
func fileOf(a wire.API) string {
	var b strings.Builder
	for i, r := range a.Name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return fmt.Sprintf("%02d_%s.go", a.Key, b.String())
}
