#include "core/process_group.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>

#ifdef SELFEDIT_C10D
#include <c10/util/Flags.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef SELFEDIT_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif
#ifdef SELFEDIT_NCCL
#include "cuda/runtime/nccl_group.h"
#endif

C10_DECLARE_int(caffe2_log_level);
#endif

namespace selfedit {

#ifdef SELFEDIT_GLOO
bool HasGloo() { return true; }
std::string WhyNoGloo() { return ""; }
#else
bool HasGloo() { return false; }
std::string WhyNoGloo() {
  return "selfedit was built without Gloo, whose headers were not found; install them (Debian and Ubuntu: "
         "apt-get install "
         "libgloo-dev) and build again (npm rebuild selfedit; in a checkout: npm run build:native -- "
         "--force)";
}
#endif

#ifdef SELFEDIT_NCCL
bool HasNccl() { return true; }
#else
bool HasNccl() { return false; }
#endif

#ifdef SELFEDIT_C10D
using std::chrono::milliseconds;

namespace {

// The first line: what follows is where in libtorch it was thrown.
std::string FirstLine(const std::exception& error) {
  const auto* own = dynamic_cast<const c10::Error*>(&error);
  const std::string text = own != nullptr ? own->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

template <typename Body>
auto Reaching(const std::string& name, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error("RANK_LOST", "the store at " + name + " cannot be reached: " + FirstLine(error));
  }
}

}  // namespace

struct RankStore::Held {
  c10::intrusive_ptr<c10d::TCPStore> store;
};

RankStore::RankStore(const GroupSpec& spec)
    : held_(std::make_unique<Held>()), name_(spec.host + ":" + std::to_string(spec.port)) {
  // What goes wrong is thrown, and told once; c10d writes a stack of frames beside it.
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr && FLAGS_caffe2_log_level < 3) FLAGS_caffe2_log_level = 3;
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(spec.port);
  options.isServer = spec.hosts_store;
  options.waitWorkers = false;
  options.timeout = milliseconds(spec.timeout_ms);
  Reaching(name_, [&] { held_->store = c10::make_intrusive<c10d::TCPStore>(spec.host, options); });
}
RankStore::~RankStore() = default;

void RankStore::Set(const std::string& key, const std::string& value) {
  Reaching(name_, [&] { held_->store->set(key, std::vector<uint8_t>(value.begin(), value.end())); });
}
int64_t RankStore::Add(const std::string& key, int64_t by) {
  return Reaching(name_, [&] { return held_->store->add(key, by); });
}
void RankStore::Delete(const std::string& key) {
  Reaching(name_, [&] { held_->store->deleteKey(key); });
}
std::vector<std::string> RankStore::Get(const std::vector<std::string>& keys) {
  return Reaching(name_, [&] {
    std::vector<std::string> values;
    for (const std::string& key : keys) {
      if (!held_->store->check({key})) {
        values.emplace_back();
        continue;
      }
      const std::vector<uint8_t> value = held_->store->get(key);
      values.emplace_back(value.begin(), value.end());
    }
    return values;
  });
}
bool RankStore::Wait(const std::string& key, milliseconds time, const JobControl& control) {
  constexpr milliseconds kSlice{200};
  return Reaching(name_, [&] {
    const auto end = std::chrono::steady_clock::now() + time;
    for (;;) {
      control.Check();
      const auto left =
          std::chrono::duration_cast<milliseconds>(end - std::chrono::steady_clock::now()) + milliseconds(1);
      if (left <= milliseconds(1)) return false;
      try {
        held_->store->wait({key}, std::min(left, kSlice));
        return true;
      } catch (const c10::DistNetworkError&) {
        throw;
      } catch (const c10::DistStoreError&) {
        // Not there yet.
      }
    }
  });
}

struct ProcessGroup::Held {
  c10::intrusive_ptr<c10d::Backend> backend;
  milliseconds timeout{};
  std::optional<at::Device> staging;  // tensors go through this device's memory
  bool broken = false;

  at::Tensor Staged(const at::Tensor& tensor) const { return staging ? tensor.to(*staging) : tensor; }

  // Waits for work that has begun; in short slices, so that it can be given up.
  void Finish(const c10::intrusive_ptr<c10d::Work>& work, const JobControl& control) {
    struct State {
      std::mutex mutex;
      std::condition_variable done;
      bool ended = false;
    };
    const auto state = std::make_shared<State>();
    const auto end = std::chrono::steady_clock::now() + timeout + std::chrono::seconds(5);
    if (!staging) {
      work->getFuture()->addCallback([state](c10::ivalue::Future&) {
        std::lock_guard lock(state->mutex);
        state->ended = true;
        state->done.notify_all();
      });
    }
    for (;;) {
      {
        std::unique_lock lock(state->mutex);
        const milliseconds slice(staging ? 1 : 100);
        if (state->done.wait_for(lock, slice, [&] { return state->ended; })) break;
      }
      if (staging && work->isCompleted()) break;
      if (control.stop != nullptr && *control.stop) {
        broken = true;
        control.Check();
      }
      if (std::chrono::steady_clock::now() > end) {
        broken = true;
        throw Error("RANK_LOST",
                    "a collective did not end within " + std::to_string(timeout.count()) + " ms");
      }
    }
    work->wait();  // throws what went wrong
  }

  template <typename Start>
  void Run(const JobControl& control, Start start) {
    control.Check();
    if (broken) throw Error("CLOSED", "the group of ranks is no longer connected");
    try {
      Finish(start(), control);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      broken = true;
      throw Error("RANK_LOST", "a connection between ranks broke: " + FirstLine(error));
    }
  }
};

namespace {

#ifdef SELFEDIT_GLOO
std::shared_ptr<::gloo::transport::Device> GlooDevice(const GroupSpec& spec) {
  using c10d::ProcessGroupGloo;
  if (const char* name = std::getenv("GLOO_SOCKET_IFNAME"); name != nullptr && *name != '\0') {
    return ProcessGroupGloo::createDeviceForInterface(name);
  }
  // All ranks are on this host, whatever its name resolves to.
  if (spec.host == "localhost" || spec.host == "127.0.0.1" || spec.host == "::1") {
    return ProcessGroupGloo::createDeviceForHostname(spec.host);
  }
  return ProcessGroupGloo::createDefaultDevice();
}

c10::intrusive_ptr<c10d::Backend> MakeGloo(const c10::intrusive_ptr<c10d::Store>& store,
                                           const GroupSpec& spec) {
  auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(spec.timeout_ms));
  options->devices.push_back(GlooDevice(spec));
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, static_cast<int>(spec.rank),
                                                     static_cast<int>(spec.world), options);
}
#else
c10::intrusive_ptr<c10d::Backend> MakeGloo(const c10::intrusive_ptr<c10d::Store>&, const GroupSpec& spec) {
  throw Error("RANKS_UNAVAILABLE",
              "a group of " + std::to_string(spec.world) + " ranks needs Gloo: " + WhyNoGloo());
}
#endif

}  // namespace

ProcessGroup::ProcessGroup(RankStore& store, const GroupSpec& spec)
    : held_(std::make_shared<Held>()), rank_(spec.rank), world_(spec.world) {
  held_->timeout = milliseconds(spec.timeout_ms);
  if (world_ == 1) return;
  const auto under = c10::make_intrusive<c10d::PrefixStore>(spec.prefix, store.held_->store);
  try {
#ifdef SELFEDIT_NCCL
    if (spec.device.rfind("cuda", 0) == 0) {
      const at::Device device(spec.device);
      held_->staging = device;
      held_->backend = cuda::MakeNccl(under, spec, device);
      return;
    }
#endif
    held_->backend = MakeGloo(under, spec);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error("RANK_LOST", "the ranks could not be connected: " + FirstLine(error));
  }
}

ProcessGroup::~ProcessGroup() {
  // What is broken has threads that wait for a peer: destroying it would wait with them. The process is about
  // to end.
  if (held_->broken) new auto(std::move(held_));
}

void ProcessGroup::AllReduce(const at::Tensor& tensor, const JobControl& control) {
  if (world_ == 1) return;
  std::vector<at::Tensor> tensors{held_->Staged(tensor)};
  held_->Run(control, [&] { return held_->backend->allreduce(tensors); });
  if (held_->staging) tensor.copy_(tensors[0]);
}

void ProcessGroup::BroadcastTensor(const at::Tensor& tensor, int64_t root, const JobControl& control) {
  if (world_ == 1) return;
  std::vector<at::Tensor> tensors{held_->Staged(tensor)};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  held_->Run(control, [&] { return held_->backend->broadcast(tensors, options); });
  if (held_->staging && root != rank_) tensor.copy_(tensors[0]);
}

void ProcessGroup::Broadcast(std::vector<uint8_t>* bytes, int64_t root, const JobControl& control) {
  if (world_ == 1) return;
  at::Tensor length = at::full({1}, static_cast<int64_t>(bytes->size()), at::kLong);
  BroadcastTensor(length, root, control);
  bytes->resize(static_cast<size_t>(length.item<int64_t>()));
  if (bytes->empty()) return;
  const at::Tensor whole = at::from_blob(bytes->data(), {static_cast<int64_t>(bytes->size())}, at::kByte);
  BroadcastTensor(whole, root, control);
}

std::vector<std::vector<uint8_t>> ProcessGroup::AllGather(const std::vector<uint8_t>& bytes,
                                                          const JobControl& control) {
  if (world_ == 1) return {bytes};
  const auto gather = [&](const at::Tensor& own) {
    at::Tensor mine = held_->Staged(own);
    std::vector<std::vector<at::Tensor>> all(1);
    for (int64_t r = 0; r < world_; ++r) all[0].push_back(at::empty_like(mine));
    std::vector<at::Tensor> inputs{mine};
    held_->Run(control, [&] { return held_->backend->allgather(all, inputs); });
    for (at::Tensor& tensor : all[0]) tensor = tensor.cpu();
    return all[0];
  };
  std::vector<int64_t> lengths;
  for (const at::Tensor& length : gather(at::full({1}, static_cast<int64_t>(bytes.size()), at::kLong))) {
    lengths.push_back(length.item<int64_t>());
  }
  const int64_t most = *std::max_element(lengths.begin(), lengths.end());
  std::vector<std::vector<uint8_t>> result(static_cast<size_t>(world_));
  if (most == 0) return result;
  // Equal lengths are what every backend knows.
  at::Tensor padded = at::zeros({most}, at::kByte);
  std::copy(bytes.begin(), bytes.end(), padded.mutable_data_ptr<uint8_t>());
  const std::vector<at::Tensor> all = gather(padded);
  for (size_t r = 0; r < result.size(); ++r) {
    const uint8_t* data = all[r].const_data_ptr<uint8_t>();
    result[r].assign(data, data + lengths[r]);
  }
  return result;
}

#else  // a libtorch without c10d

struct RankStore::Held {};
struct ProcessGroup::Held {};

namespace {
[[noreturn]] void Unavailable() {
  throw Error("RANKS_UNAVAILABLE",
              "this libtorch was built without its distributed part (c10d); expected one with it");
}
}  // namespace

RankStore::RankStore(const GroupSpec&) { Unavailable(); }
RankStore::~RankStore() = default;
void RankStore::Set(const std::string&, const std::string&) { Unavailable(); }
int64_t RankStore::Add(const std::string&, int64_t) { Unavailable(); }
void RankStore::Delete(const std::string&) { Unavailable(); }
std::vector<std::string> RankStore::Get(const std::vector<std::string>&) { Unavailable(); }
bool RankStore::Wait(const std::string&, std::chrono::milliseconds, const JobControl&) { Unavailable(); }
ProcessGroup::ProcessGroup(RankStore&, const GroupSpec&) { Unavailable(); }
ProcessGroup::~ProcessGroup() = default;
void ProcessGroup::AllReduce(const at::Tensor&, const JobControl&) { Unavailable(); }
void ProcessGroup::BroadcastTensor(const at::Tensor&, int64_t, const JobControl&) { Unavailable(); }
void ProcessGroup::Broadcast(std::vector<uint8_t>*, int64_t, const JobControl&) { Unavailable(); }
std::vector<std::vector<uint8_t>> ProcessGroup::AllGather(const std::vector<uint8_t>&, const JobControl&) {
  Unavailable();
}
#endif

}  // namespace selfedit
