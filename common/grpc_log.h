// What the gRPC library says of itself, in our log.
#pragma once

namespace interlace {

// gRPC writes a line to stderr for each connection that fails, and strangers cause as many as they like. From now on a
// line a second of it goes to our log. Process-wide; call in main.
void TakeGrpcLog();

}  // namespace interlace
