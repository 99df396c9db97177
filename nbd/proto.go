package nbd

// The numbers of the protocol, by section of proto.md. Everything is big-endian.

// "Baseline": what the server sends first, and what the client answers.
//
//	greeting        18 bytes: 0 magic (8) | 8 option magic (8) | 16 flags (2)
//	client flags     4 bytes: 0 flags (4)
const (
	magicServer uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption uint64 = 0x49484156454f5054 // "IHAVEOPT"

	greetingSize  = 18
	clientFlagLen = 4
)

// "Handshake flags" and "Client flags".
const (
	flagFixedNewstyle uint16 = 1 << 0
	flagNoZeroes      uint16 = 1 << 1

	clientFixedNewstyle uint32 = 1 << 0
	clientNoZeroes      uint32 = 1 << 1
)

// "Newstyle negotiation": an option and its reply.
//
//	option          16 bytes: 0 magic (8) | 8 option (4) | 12 length (4), then the data
//	option reply    20 bytes: 0 magic (8) | 8 option (4) | 12 type (4) | 16 length (4), then the data
const (
	magicOptionReply uint64 = 0x0003e889045565a9

	optionHeaderSize = 16
)

// "Option types".
const (
	optExportName      uint32 = 1
	optAbort           uint32 = 2
	optList            uint32 = 3
	optStartTLS        uint32 = 5
	optInfo            uint32 = 6
	optGo              uint32 = 7
	optStructuredReply uint32 = 8
	optListMetaContext uint32 = 9
	optSetMetaContext  uint32 = 10
	optExtendedHeaders uint32 = 11
)

// "Option reply types". Errors have the top bit set.
const (
	repAck         uint32 = 1
	repServer      uint32 = 2
	repInfo        uint32 = 3
	repMetaContext uint32 = 4

	repErr          uint32 = 1 << 31
	repErrUnsup            = repErr + 1
	repErrPolicy           = repErr + 2
	repErrInvalid          = repErr + 3
	repErrTLSReqd          = repErr + 5
	repErrUnknown          = repErr + 6
	repErrShutdown         = repErr + 7
	repErrExtHeader        = repErr + 10
)

// NBD_INFO_*, the kinds of NBD_REP_INFO.
//
//	INFO_EXPORT      12 bytes: 0 type (2) | 2 size (8) | 10 transmission flags (2)
//	INFO_NAME         n bytes: 0 type (2) | 2 name
//	INFO_DESCRIPTION  n bytes: 0 type (2) | 2 description
//	INFO_BLOCK_SIZE  14 bytes: 0 type (2) | 2 minimum (4) | 6 preferred (4) | 10 maximum payload (4)
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// The reply to NBD_OPT_EXPORT_NAME: 0 size (8) | 8 transmission flags (2) | 10 zeroes (124),
// the latter unless NO_ZEROES was agreed.
const (
	exportNameReply  = 10
	exportNameZeroes = 124
)

// "Transmission flags".
const (
	tfHasFlags     uint16 = 1 << 0
	tfReadOnly     uint16 = 1 << 1
	tfFlush        uint16 = 1 << 2
	tfFUA          uint16 = 1 << 3
	tfTrim         uint16 = 1 << 5
	tfWriteZeroes  uint16 = 1 << 6
	tfDF           uint16 = 1 << 7
	tfCanMultiConn uint16 = 1 << 8
	tfCache        uint16 = 1 << 10
	tfFastZero     uint16 = 1 << 11
	tfStatusFilter uint16 = 1 << 12 // NBD_FLAG_BLOCK_STATUS_PAYLOAD
)

// "Request message": the compact one, and the one of extended headers. A WRITE's payload
// follows; with extended headers, that of any request with PAYLOAD_LEN, whose length is
// then the payload's. A BLOCK_STATUS's says what the request is about.
//
//	request         28 bytes: 0 magic (4) | 4 flags (2) | 6 type (2) | 8 cookie (8) | 16 offset (8) | 24 length (4)
//	extended        32 bytes: 0 magic (4) | 4 flags (2) | 6 type (2) | 8 cookie (8) | 16 offset (8) | 24 length (8)
//	BLOCK_STATUS     payload: 0 effect length (8) | 8 contexts (4 each)
const (
	magicRequest         uint32 = 0x25609513
	magicExtendedRequest uint32 = 0x21e41c71

	requestHeaderSize    = 28
	extendedRequestSize  = 32
	statusQueryHead      = 8
	statusQueryContextID = 4
)

// "Request types".
const (
	cmdRead        uint16 = 0
	cmdWrite       uint16 = 1
	cmdDisc        uint16 = 2
	cmdFlush       uint16 = 3
	cmdTrim        uint16 = 4
	cmdCache       uint16 = 5
	cmdWriteZeroes uint16 = 6
	cmdBlockStatus uint16 = 7
)

// "Command flags".
const (
	cfFUA      uint16 = 1 << 0
	cfNoHole   uint16 = 1 << 1
	cfDF       uint16 = 1 << 2
	cfReqOne   uint16 = 1 << 3
	cfFastZero uint16 = 1 << 4
	cfPayload  uint16 = 1 << 5 // NBD_CMD_FLAG_PAYLOAD_LEN
)

// "Simple reply message", "Structured reply chunk message" and "Extended reply chunk
// message". The last one's offset is the request's.
//
//	simple reply    16 bytes: 0 magic (4) | 4 error (4) | 8 cookie (8), then a READ's data
//	chunk           20 bytes: 0 magic (4) | 4 flags (2) | 6 type (2) | 8 cookie (8) | 16 length (4), then the payload
//	extended chunk  32 bytes: 0 magic (4) | 4 flags (2) | 6 type (2) | 8 cookie (8) | 16 offset (8) | 24 length (8), then the payload
const (
	magicSimpleReply   uint32 = 0x67446698
	magicChunk         uint32 = 0x668e33ef
	magicExtendedChunk uint32 = 0x6e8a278c

	simpleReplySize   = 16
	chunkHeaderSize   = 20
	extendedChunkSize = 32

	chunkDone uint16 = 1 << 0
)

// "Structured reply types" and their payloads.
//
//	NONE              nothing
//	OFFSET_DATA       0 offset (8) | 8 data
//	OFFSET_HOLE       0 offset (8) | 8 length (4)
//	BLOCK_STATUS      0 context (4) | 4 extents of 8 bytes each: 0 length (4) | 4 flags (4)
//	BLOCK_STATUS_EXT  0 context (4) | 4 number of extents (4) | 8 extents of 16 bytes each: 0 length (8) | 8 flags (8)
//	ERROR             0 error (4) | 4 length of message (2) | 6 message
const (
	chunkNone           uint16 = 0
	chunkOffsetData     uint16 = 1
	chunkOffsetHole     uint16 = 2
	chunkBlockStatus    uint16 = 5
	chunkBlockStatusExt uint16 = 6
	chunkError          uint16 = 1<<15 + 1

	dataHead          = 8     // of OFFSET_DATA's payload
	holePayload       = 8 + 4 // OFFSET_HOLE's payload
	statusHead        = 4
	statusExtent      = 8
	statusHeadExt     = 8
	statusExtentExt   = 16
	maxChunkOfAHole   = extendedChunkSize + holePayload
	maxStatusChunkTop = extendedChunkSize + statusHeadExt
)

// Limits that are ours; what goes beyond them is refused before anything is allocated.
const (
	maxNameBytes       = 4096     // proto.md, "Values": no string is longer
	maxOptionBytes     = 64 << 10 // data of one option; more closes the connection
	maxOptions         = 64       // options in one negotiation; more close the connection
	maxDrainBytes      = 64 << 20 // payload of a refused write that is read and thrown away
	maxErrorText       = 512      // text of an error reply
	defaultMinBlock    = 1
	defaultPreferBlock = 4096
	defaultMaxBlock    = 32 << 20
	maxMaxBlock        = 1 << 30
)
