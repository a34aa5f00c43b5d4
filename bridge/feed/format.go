package feed

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"periph.io/x/conn/v3/physic"

	"millrace/hw/sensor"
)

// Format is how a reading is written.
type Format string

// The formats.
const (
	SenMLJSON Format = "senml+json" // RFC 8428 section 5; base time in seconds, units of section 12.1
	SenMLCBOR Format = "senml+cbor" // RFC 8428 section 6
	JSON      Format = "json"       // one flat object: sensor, time (ms), a number for each quantity, quality
	Raw       Format = "raw"        // decimal text: temperature, humidity, pressure, those there are, with commas between
)

var mediaTypes = map[Format]string{
	SenMLJSON: "application/senml+json", SenMLCBOR: "application/senml+cbor", JSON: "application/json", Raw: "text/plain",
}

func (f Format) mediaType() string { return mediaTypes[f] }

func (f Format) check() error {
	if _, ok := mediaTypes[f]; !ok {
		return fmt.Errorf("no such format: %q", string(f))
	}
	return nil
}

// value is one quantity in its SenML unit, rounded to what the chips resolve.
type value struct {
	name, unit string
	amount     float64
}

func values(r sensor.Reading) []value {
	list := make([]value, 0, 3)
	if r.Has&sensor.Temperature != 0 {
		centi := math.Round(float64(r.Temperature-physic.ZeroCelsius) / float64(10*physic.MilliKelvin))
		list = append(list, value{"temperature", "Cel", centi / 100})
	}
	if r.Has&sensor.Humidity != 0 {
		centi := math.Round(float64(r.Humidity) / float64(physic.PercentRH) * 100)
		list = append(list, value{"humidity", "%RH", centi / 100})
	}
	if r.Has&sensor.Pressure != 0 {
		deci := math.Round(float64(r.Pressure) / float64(physic.Pascal) * 10)
		list = append(list, value{"pressure", "Pa", deci / 10})
	}
	return list
}

// senml is one SenML record; the CBOR labels are RFC 8428's table 4.
type senml struct {
	BaseName string   `json:"bn,omitempty" cbor:"-2,keyasint,omitempty"`
	BaseTime float64  `json:"bt,omitempty" cbor:"-3,keyasint,omitempty"`
	Name     string   `json:"n,omitempty" cbor:"0,keyasint,omitempty"`
	Unit     string   `json:"u,omitempty" cbor:"1,keyasint,omitempty"`
	Value    *float64 `json:"v,omitempty" cbor:"2,keyasint,omitempty"`
	Text     string   `json:"vs,omitempty" cbor:"3,keyasint,omitempty"`
}

// pack is the readings as SenML records: the first carries the base name and time, and doubts come last as text.
func pack(name string, now time.Time, r sensor.Reading) []senml {
	var list []senml
	for _, v := range values(r) {
		list = append(list, senml{Name: v.name, Unit: v.unit, Value: &v.amount})
	}
	if r.Quality != 0 {
		list = append(list, senml{Name: "quality", Text: r.Quality.String()})
	}
	if len(list) > 0 {
		list[0].BaseName, list[0].BaseTime = name+":", float64(now.UnixMilli())/1000
	}
	return list
}

func (f Format) encode(name string, now time.Time, r sensor.Reading) ([]byte, error) {
	switch f {
	case SenMLJSON:
		return json.Marshal(pack(name, now, r))
	case SenMLCBOR:
		return cbor.Marshal(pack(name, now, r))
	case Raw:
		words := []string{}
		for _, v := range values(r) {
			words = append(words, strconv.FormatFloat(v.amount, 'f', -1, 64))
		}
		return []byte(strings.Join(words, ",")), nil
	}
	object := map[string]any{"sensor": name, "time": now.UnixMilli()}
	for _, v := range values(r) {
		object[v.name] = v.amount
	}
	if r.Quality != 0 {
		object["quality"] = r.Quality.String()
	}
	return json.Marshal(object)
}
