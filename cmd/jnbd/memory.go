package main

const (
	defaultMemory = 256 << 20
	minMemory     = 128 << 20
	// minBuffers is what the server needs for two of the largest requests.
	minBuffers = 64 << 20
	// memoryHeadroom is what the Go runtime, stacks and code may take besides --memory.
	memoryHeadroom = 32 << 20
)

// memoryBudget is --memory, divided.
type memoryBudget struct {
	buffers int64 // payloads and replies of all connections
	disk    int64 // what one disk's engine may hold
}

// splitMemory gives the clients' buffers five sixteenths, with which the default has room for eight
// requests of 1 MiB of one connection (decision 30), and shares the rest among the disks.
func splitMemory(total int64, disks int) memoryBudget {
	buffers := max(total*5/16, minBuffers)
	return memoryBudget{buffers: buffers, disk: (total - buffers) / int64(disks)}
}
