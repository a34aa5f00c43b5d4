// Package mosquitto drives the real millrace process with Debian's mosquitto_pub and mosquitto_sub and with paho, over
// MQTT 3.1.1 and 5, and reads and writes the same records with kcat and franz-go. It has tests only.
package mosquitto
