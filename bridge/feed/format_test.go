package feed

import (
	"encoding/hex"
	"testing"
	"time"

	"periph.io/x/conn/v3/physic"

	"millrace/hw/sensor"
)

func TestFormats(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_250)
	full := sensor.Reading{
		Has:         sensor.Temperature | sensor.Humidity | sensor.Pressure,
		Temperature: physic.ZeroCelsius - 5120*physic.MilliKelvin, Humidity: 45 * physic.PercentRH, Pressure: 1013250 * physic.Pascal / 10,
	}
	doubted := sensor.Reading{Has: sensor.Temperature, Temperature: physic.ZeroCelsius, Quality: sensor.First | sensor.OutOfRange}
	for _, tt := range []struct {
		format Format
		r      sensor.Reading
		want   string
	}{
		{SenMLJSON, full, `[{"bn":"a:","bt":1700000000.25,"n":"temperature","u":"Cel","v":-5.12},{"n":"humidity","u":"%RH","v":45},{"n":"pressure","u":"Pa","v":101325}]`},
		{SenMLJSON, doubted, `[{"bn":"a:","bt":1700000000.25,"n":"temperature","u":"Cel","v":0},{"n":"quality","vs":"first,out-of-range"}]`},
		{JSON, full, `{"humidity":45,"pressure":101325,"sensor":"a","temperature":-5.12,"time":1700000000250}`},
		{JSON, doubted, `{"quality":"first,out-of-range","sensor":"a","temperature":0,"time":1700000000250}`},
		{Raw, full, "-5.12,45,101325"},
		{Raw, doubted, "0"},
	} {
		if got, err := tt.format.encode("a", now, tt.r); err != nil || string(got) != tt.want {
			t.Errorf("%s: %s, %v\nwant %s", tt.format, got, err, tt.want)
		}
	}
	// RFC 8949 by hand: an array of two maps; labels -2 (bn), -3 (bt), 0 (n), 1 (u), 2 (v), 3 (vs).
	want := "82" + "a5" + "21" + "62613a" + "22" + "fb41d954fc40100000" + "00" + "6b74656d7065726174757265" + "01" + "6343656c" + "02" + "fb0000000000000000" +
		"a2" + "00" + "677175616c697479" + "03" + "7266697273742c6f75742d6f662d72616e6765"
	got, err := SenMLCBOR.encode("a", now, doubted)
	if err != nil || hex.EncodeToString(got) != want {
		t.Errorf("senml+cbor: %x, %v\nwant %s", got, err, want)
	}
}
