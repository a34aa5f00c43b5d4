package lane

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Program is the package of the program itself.
const Program = "millrace/platform/cmd/millrace"

// Build builds the program into the file to, with more arguments of `go build` and settings of the environment such as
// GOARCH=arm, each of which begins with the name of a variable and "=". Like that of `make build` it has no cgo, with
// which it takes 1.4 MiB more. The result of the test hangs on the sources from then on, see Sources.
func Build(t testing.TB, to string, with ...string) {
	t.Helper()
	args, env := []string{"build", "-o", to}, []string{"CGO_ENABLED=0"}
	for _, w := range with {
		if strings.HasPrefix(w, "GO") && strings.Contains(w, "=") {
			env = append(env, w)
		} else {
			args = append(args, w)
		}
	}
	Sources(t, Program, env...)
	build := exec.Command("go", append(args, Program)...)
	build.Env = append(os.Environ(), env...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

// hung are the packages whose sources were opened already, with the environment they are built in.
var hung struct {
	sync.Mutex
	on map[string]bool
}

// Sources has the result of a test hang on what a package is built of, for a test that lets somebody else build it. Go
// serves a result again while the test's own code and the files of the module that it opened are as they were, and does
// not see what a child reads: without this a lane would pass by what the program was like once. It has to be called from a
// test: what TestMain opens before m.Run counts for nothing.
func Sources(t testing.TB, pkg string, env ...string) {
	t.Helper()
	hung.Lock()
	defer hung.Unlock()
	key := strings.Join(append(env, pkg), " ")
	if hung.on[key] {
		return
	}
	files, dirs, err := sources(pkg, env)
	if err != nil {
		t.Fatalf("what %s is built of: %v", pkg, err)
	}
	Uses(t, files...)
	for _, dir := range dirs { // it changes with the names in it: a file that is new
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
	}
	if hung.on == nil {
		hung.on = map[string]bool{}
	}
	hung.on[key] = true
}

// Uses is Sources for scripts and other files that a child of the test reads; of a directory all that is below it.
func Uses(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := filepath.WalkDir(name, func(name string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			return f.Close()
		}); err != nil {
			t.Fatalf("what a child of the test reads: %v", err)
		}
	}
}

// sources lists the files of the module that a package is built of, and the directories they lie in.
func sources(pkg string, env []string) (files, dirs []string, err error) {
	const fields = "Dir,Module,GoFiles,CgoFiles,CFiles,HFiles,SFiles,EmbedFiles"
	list := exec.Command("go", "list", "-deps", "-json="+fields, pkg)
	list.Env = append(os.Environ(), env...)
	var complaints bytes.Buffer
	list.Stderr = &complaints
	out, err := list.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("%w\n%s", err, complaints.Bytes())
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir    string
			Module *struct {
				Main  bool
				GoMod string
			}
			GoFiles, CgoFiles, CFiles, HFiles, SFiles, EmbedFiles []string
		}
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return files, dirs, nil
		case err != nil:
			return nil, nil, err
		case p.Module == nil || !p.Module.Main: // go.sum stands for the others
			continue
		}
		if len(dirs) == 0 {
			sum := strings.TrimSuffix(p.Module.GoMod, ".mod") + ".sum"
			files = append(files, p.Module.GoMod)
			if _, err := os.Stat(sum); err == nil { // a module without libraries has none
				files = append(files, sum)
			}
		}
		dirs = append(dirs, p.Dir)
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.CFiles, p.HFiles, p.SFiles, p.EmbedFiles) {
			files = append(files, filepath.Join(p.Dir, name))
		}
	}
}
