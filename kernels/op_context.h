// OpContext: what an op runs on.
#pragma once

#include "kernels/thread_team.h"

namespace interlace {

// The compute threads of a CPU backend, or the stream of a device. A value, made by the Backend; it owns nothing.
// The trap: an op of a device returns when it is queued, not when it is done (Backend::Synchronize).
class OpContext {
 public:
  OpContext(ThreadTeam& team) : team_(&team) {}  // NOLINT: a team is a context
  explicit OpContext(void* stream) : stream_(stream) {}
  ThreadTeam& team() const { return *team_; }  // CPU tables only
  void* stream() const { return stream_; }     // device tables only: what their backend put there

 private:
  ThreadTeam* team_ = nullptr;
  void* stream_ = nullptr;
};

}  // namespace interlace
