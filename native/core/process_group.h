// Processes that work on one run: a store of small keys, and collectives over libtorch's c10d (Gloo between
// hosts' memories, NCCL between GPUs). Who waits for whom, and for how long, is decided in lib/ranks/.
#pragma once
#include <ATen/ATen.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "core/types.h"

namespace selfedit {

struct GroupSpec {
  std::string host;
  int64_t port = 0;
  int64_t rank = 0, world = 1;
  bool hosts_store = false;  // this process serves the store; else it connects to one
  std::string prefix;        // of the collectives' keys, so that nothing of an earlier start is read
  std::string device = "cpu";
  int64_t timeout_ms = 60'000;  // to reach the store, and for one collective that every rank has begun
};

// Whether this build has Gloo, or why not: what to install.
bool HasGloo();
std::string WhyNoGloo();
// Whether groups on a GPU talk over NCCL.
bool HasNccl();

// One connection to the store. Calls of one connection exclude each other; a call that the server does not
// answer waits. Errors: RANK_LOST where the server cannot be reached.
class RankStore {
 public:
  explicit RankStore(const GroupSpec& spec);
  ~RankStore();
  void Set(const std::string& key, const std::string& value);
  int64_t Add(const std::string& key, int64_t by);
  void Delete(const std::string& key);
  // An entry a key; empty where there is none.
  std::vector<std::string> Get(const std::vector<std::string>& keys);
  // Whether the key was there within the time.
  bool Wait(const std::string& key, std::chrono::milliseconds time, const JobControl& control);

 private:
  friend class ProcessGroup;
  struct Held;
  std::unique_ptr<Held> held_;
  std::string name_;
};

// Collectives: every rank makes the same calls in the same order. Errors: RANK_LOST where a peer has gone or
// the time is over, ABORTED (the group is of no use then), RANKS_UNAVAILABLE where the build lacks the
// backend.
class ProcessGroup {
 public:
  // Connects the ranks with each other. All must be about to.
  ProcessGroup(RankStore& store, const GroupSpec& spec);
  ~ProcessGroup();
  int64_t rank() const { return rank_; }
  int64_t world() const { return world_; }

  // `bytes` of rank `root`, to all.
  void Broadcast(std::vector<uint8_t>* bytes, int64_t root, const JobControl& control);
  // An entry a rank; their lengths may differ.
  std::vector<std::vector<uint8_t>> AllGather(const std::vector<uint8_t>& bytes, const JobControl& control);
  // In place: the sum over ranks, the same bits on all of them. A contiguous tensor of the host.
  void AllReduce(const at::Tensor& tensor, const JobControl& control);
  // In place: the values of rank `root`.
  void BroadcastTensor(const at::Tensor& tensor, int64_t root, const JobControl& control);

 private:
  struct Held;
  std::shared_ptr<Held> held_;
  int64_t rank_, world_;
};

}  // namespace selfedit
