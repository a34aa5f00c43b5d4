// Package idle measures the real millrace process while nobody wants anything of it: both doors open, one MQTT client
// and one Kafka client connected and silent. Rows 3, 12 and 13 of the goals. It has tests only.
package idle
