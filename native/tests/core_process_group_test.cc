// Ranks as threads of one process: what the collectives give, and what happens when one is missing.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>

#include "core/process_group.h"

namespace selfedit {
namespace {

int64_t FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  close(fd);
  return ntohs(address.sin_port);
}

GroupSpec SpecOf(int64_t rank, int64_t world, int64_t port, int64_t timeout_ms = 20'000) {
  GroupSpec spec;
  spec.host = "127.0.0.1";
  spec.port = port;
  spec.rank = rank;
  spec.world = world;
  spec.hosts_store = rank == 0;
  spec.prefix = "test";
  spec.timeout_ms = timeout_ms;
  return spec;
}

// Runs `body` on a thread a rank; all have their store and their group.
void OnRanks(int64_t world, const std::function<void(ProcessGroup&, RankStore&)>& body) {
  const int64_t port = FreePort();
  RankStore served(SpecOf(0, world, port));
  std::vector<std::thread> threads;
  std::atomic<int64_t> left{world};
  for (int64_t rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      GroupSpec spec = SpecOf(rank, world, port);
      spec.hosts_store = false;
      RankStore store(spec);
      ProcessGroup group(store, spec);
      body(group, store);
      // A rank that goes early takes its connections with it.
      --left;
      while (left > 0) std::this_thread::yield();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

const JobControl kNoControl;

TEST(ProcessGroup, CollectivesGiveTheSameOnAllRanks) {
  if (!HasGloo()) GTEST_SKIP() << WhyNoGloo();
  for (const int64_t world : {1, 2, 3}) {
    OnRanks(world, [&](ProcessGroup& group, RankStore&) {
      const int64_t rank = group.rank();
      // Lengths differ, and may be 0.
      const std::vector<uint8_t> own(static_cast<size_t>(5 * rank), static_cast<uint8_t>(10 + rank));
      const auto all = group.AllGather(own, kNoControl);
      ASSERT_EQ(static_cast<int64_t>(all.size()), world);
      for (int64_t r = 0; r < world; ++r) {
        EXPECT_EQ(all[r], std::vector<uint8_t>(static_cast<size_t>(5 * r), static_cast<uint8_t>(10 + r)));
      }
      for (int64_t root = 0; root < world; ++root) {
        std::vector<uint8_t> bytes(rank == root ? 3 + root : 99, static_cast<uint8_t>(rank));
        group.Broadcast(&bytes, root, kNoControl);
        EXPECT_EQ(bytes, std::vector<uint8_t>(static_cast<size_t>(3 + root), static_cast<uint8_t>(root)));
      }
      for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
        const at::Tensor values = at::arange(1000, at::kDouble).to(type) + rank;
        group.AllReduce(values, kNoControl);
        const double shift = static_cast<double>(world * (world - 1)) / 2;
        EXPECT_TRUE(at::equal(values, (at::arange(1000, at::kDouble) * world + shift).to(type)));
        const at::Tensor given = at::full({3}, static_cast<double>(rank), type);
        group.BroadcastTensor(given, world - 1, kNoControl);
        EXPECT_TRUE(at::equal(given, at::full({3}, static_cast<double>(world - 1), type)));
      }
    });
  }
}

TEST(ProcessGroup, SumsHaveTheSameBitsOnAllRanks) {
  if (!HasGloo()) GTEST_SKIP() << WhyNoGloo();
  std::vector<at::Tensor> sums(3);
  OnRanks(3, [&](ProcessGroup& group, RankStore&) {
    // Numbers whose sum depends on the order.
    const at::Tensor values =
        at::sin(at::arange(4099, at::kFloat) * (1.0 + static_cast<double>(group.rank()))).contiguous();
    group.AllReduce(values, kNoControl);
    sums[group.rank()] = values;
  });
  EXPECT_TRUE(at::equal(sums[0], sums[1]));
  EXPECT_TRUE(at::equal(sums[0], sums[2]));
}

TEST(RankStore, KeysAreThereForAll) {
  if (!HasGloo()) GTEST_SKIP() << WhyNoGloo();
  OnRanks(2, [&](ProcessGroup& group, RankStore& store) {
    EXPECT_FALSE(store.Wait("never", std::chrono::milliseconds(30), kNoControl));
    if (group.rank() == 0) store.Set("word", std::string("a\0b", 3));
    EXPECT_TRUE(store.Wait("word", std::chrono::seconds(20), kNoControl));
    EXPECT_EQ(store.Get({"word", "never"}), (std::vector<std::string>{std::string("a\0b", 3), ""}));
    store.Add("count", 2);
    group.AllGather({}, kNoControl);
    EXPECT_EQ(store.Add("count", 0), 4);
    group.AllGather({}, kNoControl);
    if (group.rank() == 0) store.Delete("word");
    group.AllGather({}, kNoControl);
    EXPECT_EQ(store.Get({"word"}), std::vector<std::string>{""});
  });
}

TEST(RankStore, AWaitEndsWhenItIsStopped) {
  if (!HasGloo()) GTEST_SKIP() << WhyNoGloo();
  RankStore store(SpecOf(0, 1, FreePort()));
  std::atomic<bool> stop{false};
  JobControl control;
  control.stop = &stop;
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stop = true;
  });
  try {
    store.Wait("never", std::chrono::hours(1), control);
    ADD_FAILURE() << "it was not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "ABORTED");
  }
  later.join();
}

TEST(RankStore, WithoutAServerTheRankIsLost) {
  try {
    GroupSpec spec = SpecOf(1, 2, FreePort(), 300);
    RankStore store(spec);
    ADD_FAILURE() << "there is no server";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "RANK_LOST");
    EXPECT_NE(std::string(error.what()).find("the store at 127.0.0.1:"), std::string::npos);
  }
}

TEST(ProcessGroup, ACollectiveThatAPeerDoesNotJoinEnds) {
  if (!HasGloo()) GTEST_SKIP() << WhyNoGloo();
  const int64_t port = FreePort();
  RankStore served(SpecOf(0, 2, port));
  std::atomic<bool> over{false};
  std::thread absent([&] {
    GroupSpec spec = SpecOf(1, 2, port, 1'000);
    spec.hosts_store = false;
    RankStore store(spec);
    ProcessGroup group(store, spec);
    while (!over) std::this_thread::yield();
  });
  GroupSpec spec = SpecOf(0, 2, port, 1'000);
  spec.hosts_store = false;
  RankStore store(spec);
  ProcessGroup group(store, spec);
  try {
    group.AllReduce(at::ones({10}), kNoControl);
    ADD_FAILURE() << "nobody else took part";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "RANK_LOST");
  }
  over = true;
  absent.join();
}

}  // namespace
}  // namespace selfedit
