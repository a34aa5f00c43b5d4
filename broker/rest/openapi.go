package rest

import (
	_ "embed"
	"net/http"
)

// openapi describes every path of the listener; tests hold it against what is served.
//
//go:embed openapi.json
var openapi []byte

// OpenAPI is the description of the door for programs, in OpenAPI 3.1.
func OpenAPI() []byte { return append([]byte(nil), openapi...) }

func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", jsonType)
	s.send(w, http.StatusOK, openapi)
}
