package packet

import "fmt"

// Reason is an MQTT 5 reason code (2.4). Codes from 0x80 up are failures.
type Reason byte

const (
	Success                Reason = 0x00 // also: granted QoS 0, normal disconnection
	GrantedQoS1            Reason = 0x01
	GrantedQoS2            Reason = 0x02
	DisconnectWithWill     Reason = 0x04
	NoMatchingSubscribers  Reason = 0x10
	NoSubscriptionExisted  Reason = 0x11
	ContinueAuthentication Reason = 0x18
	Reauthenticate         Reason = 0x19
	UnspecifiedError       Reason = 0x80
	MalformedPacket        Reason = 0x81
	ProtocolError          Reason = 0x82
	ImplementationError    Reason = 0x83
	UnsupportedVersion     Reason = 0x84
	InvalidClientID        Reason = 0x85
	BadCredentials         Reason = 0x86
	NotAuthorized          Reason = 0x87
	ServerUnavailable      Reason = 0x88
	ServerBusy             Reason = 0x89
	Banned                 Reason = 0x8A
	ServerShuttingDown     Reason = 0x8B
	BadAuthentication      Reason = 0x8C
	KeepAliveTimeout       Reason = 0x8D
	SessionTakenOver       Reason = 0x8E
	InvalidTopicFilter     Reason = 0x8F
	InvalidTopicName       Reason = 0x90
	PacketIDInUse          Reason = 0x91
	PacketIDNotFound       Reason = 0x92
	ReceiveMaximumExceeded Reason = 0x93
	InvalidTopicAlias      Reason = 0x94
	PacketTooLarge         Reason = 0x95
	MessageRateTooHigh     Reason = 0x96
	QuotaExceeded          Reason = 0x97
	AdministrativeAction   Reason = 0x98
	InvalidPayloadFormat   Reason = 0x99
	RetainNotSupported     Reason = 0x9A
	QoSNotSupported        Reason = 0x9B
	UseAnotherServer       Reason = 0x9C
	ServerMoved            Reason = 0x9D
	NoSharedSubscriptions  Reason = 0x9E
	ConnectionRateExceeded Reason = 0x9F
	MaximumConnectTime     Reason = 0xA0
	NoSubscriptionIDs      Reason = 0xA1
	NoWildcards            Reason = 0xA2
)

// Failed reports whether the code says that something was refused.
func (r Reason) Failed() bool { return r >= 0x80 }

func (r Reason) String() string { return fmt.Sprintf("0x%02X", byte(r)) }

// Error is why a packet was refused: the reason code the specification asks for and one phrase for a reason string.
type Error struct {
	Reason Reason
	Why    string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%s)", e.Why, e.Reason) }

// The reason codes each packet may carry (table 2-6).
const (
	// Of CONNACK [MQTT-3.2.2-8].
	connackReasons    = "\x00\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8A\x8C\x90\x95\x97\x99\x9A\x9B\x9C\x9D\x9F"
	pubackReasons     = "\x00\x10\x80\x83\x87\x90\x91\x97\x99"             // PUBACK and PUBREC [MQTT-3.4.2-1] [MQTT-3.5.2-1]
	pubrelReasons     = "\x00\x92"                                         // PUBREL and PUBCOMP [MQTT-3.6.2-1] [MQTT-3.7.2-1]
	subackReasons     = "\x00\x01\x02\x80\x83\x87\x8F\x91\x97\x9E\xA1\xA2" // [MQTT-3.9.3-2]
	unsubackReasons   = "\x00\x11\x80\x83\x87\x8F\x91"                     // [MQTT-3.11.3-2]
	disconnectReasons = "\x00\x04\x80\x81\x82\x83\x87\x89\x8B\x8D\x8E\x8F\x90\x93\x94\x95\x96\x97\x98\x99\x9A\x9B\x9C\x9D\x9E\x9F\xA0\xA1\xA2"
	authReasons       = "\x00\x18\x19"
	connackReturns311 = "\x00\x01\x02\x03\x04\x05"
	subackReturns311  = "\x00\x01\x02\x80" // [MQTT-3.9.3-2] of 3.1.1
)
