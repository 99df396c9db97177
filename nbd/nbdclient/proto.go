package nbdclient

// The numbers of the protocol that this side needs, by section of proto.md. They are
// written down a second time, apart from the server's, so that both can't share a slip.

// "Baseline", "Handshake flags", "Client flags".
const (
	magicServer uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption uint64 = 0x49484156454f5054 // "IHAVEOPT"
	magicOld    uint64 = 0x00420281861253   // the second magic of the oldstyle handshake

	handshakeFixed    uint16 = 1 << 0
	handshakeNoZeroes uint16 = 1 << 1
	clientFixed       uint32 = 1 << 0
	clientNoZeroes    uint32 = 1 << 1
)

// "Option types".
const (
	optionExportName      uint32 = 1
	optionAbort           uint32 = 2
	optionList            uint32 = 3
	optionStartTLS        uint32 = 5
	optionInfo            uint32 = 6
	optionGo              uint32 = 7
	optionStructuredReply uint32 = 8
	optionSetMetaContext  uint32 = 10
)

// "Option reply types" and the kinds of information.
const (
	magicOptionReply uint64 = 0x0003e889045565a9

	replyAck         uint32 = 1
	replyServer      uint32 = 2
	replyInfo        uint32 = 3
	replyMetaContext uint32 = 4
	replyError       uint32 = 1 << 31

	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// RefusalKind says why a server refused an option (NBD_REP_ERR_*).
type RefusalKind uint32

// The reasons for which a server refuses an option.
const (
	RefusedUnsupported RefusalKind = 1<<31 + 1 // it does not know the option
	RefusedPolicy      RefusalKind = 1<<31 + 2 // it does not allow it
	RefusedInvalid     RefusalKind = 1<<31 + 3 // it takes it for malformed
	RefusedPlatform    RefusalKind = 1<<31 + 4 // it was built without it
	RefusedNeedTLS     RefusalKind = 1<<31 + 5 // TLS must come first
	RefusedUnknown     RefusalKind = 1<<31 + 6 // it has no such export
	RefusedShutdown    RefusalKind = 1<<31 + 7 // it is stopping
	RefusedBlockSize   RefusalKind = 1<<31 + 8 // it wants to be asked for block sizes
	RefusedTooBig      RefusalKind = 1<<31 + 9 // the option or its answer is too long
)

// Flags are an export's transmission flags: what it is and what it can do.
type Flags uint16

// "Transmission flags".
const (
	HasFlags     Flags = 1 << 0
	ReadOnly     Flags = 1 << 1
	CanFlush     Flags = 1 << 2
	CanFUA       Flags = 1 << 3
	Rotational   Flags = 1 << 4
	CanTrim      Flags = 1 << 5
	CanZero      Flags = 1 << 6
	CanDF        Flags = 1 << 7
	CanMultiConn Flags = 1 << 8
	CanCache     Flags = 1 << 10
	CanFastZero  Flags = 1 << 11
)

// Command is a request's kind.
type Command uint16

// "Request types".
const (
	Read        Command = 0
	Write       Command = 1
	disconnect  Command = 2
	Flush       Command = 3
	Trim        Command = 4
	Cache       Command = 5
	Zero        Command = 6
	BlockStatus Command = 7
)

// String is the command in one word.
func (c Command) String() string {
	names := [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "zero", "block status"}
	if int(c) < len(names) {
		return names[c]
	}
	return "unknown command"
}

// CommandFlags change what a request means.
type CommandFlags uint16

// "Command flags".
const (
	FUA      CommandFlags = 1 << 0 // durable before the reply
	NoHole   CommandFlags = 1 << 1 // Zero keeps the space
	DF       CommandFlags = 1 << 2 // Read answers in one piece
	ReqOne   CommandFlags = 1 << 3 // BlockStatus answers with one extent
	FastZero CommandFlags = 1 << 4 // Zero fails unless it is quicker than a Write
)

// "Request message", "Simple reply message", "Structured reply chunk message".
const (
	magicRequest     uint32 = 0x25609513
	magicSimpleReply uint32 = 0x67446698
	magicChunk       uint32 = 0x668e33ef

	requestSize     = 28
	simpleReplyRest = 12 // behind the magic
	chunkHeaderRest = 16 // behind the magic

	chunkDone        uint16 = 1 << 0
	chunkNone        uint16 = 0
	chunkOffsetData  uint16 = 1
	chunkOffsetHole  uint16 = 2
	chunkBlockStatus uint16 = 5
	chunkErrors      uint16 = 1 << 15 // kinds from here on are errors
	chunkErrorOffset uint16 = 1<<15 + 2
)

// Limits that are ours. A server that goes beyond them is not worth the memory.
const (
	maxName        = 4096     // bytes of any string of the protocol ("Values")
	maxOptionReply = 64 << 10 // data of one option reply
	maxReplies     = 100_000  // replies to one option: a list of that many exports
	maxErrorText   = 4096     // text of an error chunk
	maxStatus      = 8 << 20  // payload of one block status chunk
)
