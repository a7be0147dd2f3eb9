// The life of jobs without Node: owners come and go, work is dropped, stopped, told about. Made to be run
// under ThreadSanitizer (npm run test:sanitize -- thread), and with every other test.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "core/mailbox.h"
#include "core/work_queue.h"

namespace selfedit {
namespace {

WorkQueue::Hooks Quick() {
  WorkQueue::Hooks hooks;
  hooks.idle_after = std::chrono::milliseconds(1);
  return hooks;
}

// What an environment does: an event loop on its own thread, jobs with a stop flag and progress.
class Owner {
 public:
  explicit Owner(WorkQueue& queue)
      : queue_(queue), mailbox_(std::make_shared<Mailbox<Owner*>>([this] { Wake(); })) {
    queue_.Enter();
  }

  struct Running {
    std::atomic<bool> stop{false};
    Latest<int> progress;
    int result = 0;  // written by the one thread, read by the other once it is told
  };

  // Counts to `steps`, or until it is stopped.
  void Start(int steps) {
    auto job = std::make_shared<Running>();
    jobs_.insert(job);
    queue_.Post(this, [job, steps, mailbox = mailbox_] {
      for (int i = 1; i <= steps && !job->stop; ++i) {
        job->result = i;
        if (job->progress.Put(i)) {
          mailbox->Send([job](Owner* owner) {
            if (const auto seen = job->progress.Take()) owner->Saw(*seen);
          });
        }
      }
      mailbox->Send([job](Owner* owner) { owner->End(job); });
    });
  }

  void StopAll() {
    for (const auto& job : jobs_) job->stop = true;
  }

  // Turns of the event loop until no job is left.
  void RunToTheEnd() {
    while (!jobs_.empty()) {
      std::unique_lock lock(mutex_);
      woken_.wait(lock, [this] { return wakes_ > 0; });
      wakes_ = 0;
      lock.unlock();
      Turn();
    }
  }
  void Turn() {
    mailbox_->Run([this](const auto& task) { task(this); });
  }

  void Leave() {
    StopAll();
    queue_.Leave(this);
    mailbox_->Close();
  }

  int ended() const { return ended_; }
  int64_t sum() const { return sum_; }

 private:
  void Wake() {
    {
      std::lock_guard lock(mutex_);
      ++wakes_;
    }
    woken_.notify_one();
  }
  void Saw(int progress) {
    EXPECT_GE(progress, 1);
    seen_ = progress;
  }
  void End(const std::shared_ptr<Running>& job) {
    ++ended_;
    sum_ += job->result;
    jobs_.erase(job);
  }

  WorkQueue& queue_;
  std::shared_ptr<Mailbox<Owner*>> mailbox_;
  std::set<std::shared_ptr<Running>> jobs_;
  std::mutex mutex_;
  std::condition_variable woken_;
  int wakes_ = 0, ended_ = 0, seen_ = 0;
  int64_t sum_ = 0;
};

TEST(WorkQueue, RunsInOrderOnOneThread) {
  WorkQueue queue(Quick());
  queue.Enter();
  std::vector<int> order;
  std::set<std::thread::id> threads;
  for (int i = 0; i < 100; ++i) {
    queue.Post(&queue, [&, i] {
      order.push_back(i);
      threads.insert(std::this_thread::get_id());
    });
  }
  std::atomic<bool> last{false};
  queue.Post(&queue, [&] { last = true; });
  while (!last) std::this_thread::yield();
  queue.Leave(&queue);
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[i], i);
  EXPECT_EQ(threads.size(), 1u);
  EXPECT_EQ(threads.count(std::this_thread::get_id()), 0u);
}

TEST(WorkQueue, LeavingDropsWhatHasNotBegunAndWaitsForWhatHas) {
  WorkQueue queue(Quick());
  int other = 0;
  queue.Enter();
  queue.Enter();
  std::atomic<bool> begun{false};
  bool ended = false, never = false;
  queue.Post(&queue, [&] {
    begun = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ended = true;
  });
  queue.Post(&queue, [&] { never = true; });
  std::atomic<bool> of_other{false};
  queue.Post(&other, [&] { of_other = true; });
  while (!begun) std::this_thread::yield();
  queue.Leave(&queue);
  EXPECT_TRUE(ended);
  EXPECT_FALSE(never);
  while (!of_other) std::this_thread::yield();
  queue.Leave(&other);
}

TEST(WorkQueue, HooksRunOnTheThread) {
  std::atomic<int> begun{0}, ended{0}, before{0}, idle{0};
  struct Life {
    explicit Life(std::atomic<int>& ended) : ended(ended) {}
    ~Life() { ++ended; }
    std::atomic<int>& ended;
  };
  WorkQueue::Hooks hooks = Quick();
  hooks.begin = [&]() -> std::shared_ptr<void> {
    ++begun;
    return std::make_shared<Life>(ended);
  };
  hooks.before_work = [&] { ++before; };
  hooks.idle = [&] { ++idle; };
  WorkQueue queue(hooks);
  for (int life = 1; life <= 3; ++life) {
    queue.Enter();
    queue.Post(&queue, [] {});
    while (idle < life) std::this_thread::yield();
    queue.Leave(&queue);
    EXPECT_EQ(begun, life);
    EXPECT_EQ(ended, life);
    EXPECT_EQ(before, life);
    EXPECT_EQ(idle, life) << "idle is told once";
  }
}

TEST(WorkQueue, DisposesOnTheThreadAndHereWhereThereIsNone) {
  WorkQueue queue(Quick());
  std::thread::id where;
  const auto thing = [&] {
    return std::shared_ptr<const void>(new int(0), [&](const int* p) {
      where = std::this_thread::get_id();
      delete p;
    });
  };
  queue.Dispose(thing());
  EXPECT_EQ(where, std::this_thread::get_id());
  queue.Enter();
  queue.Post(&queue, [] {});
  queue.Dispose(thing());
  std::atomic<bool> last{false};
  queue.Post(&queue, [&] { last = true; });
  while (!last) std::this_thread::yield();
  queue.Leave(&queue);
  EXPECT_NE(where, std::this_thread::get_id());
}

TEST(Jobs, TellTheirResultsAndProgress) {
  WorkQueue queue(Quick());
  Owner owner(queue);
  for (int i = 1; i <= 50; ++i) owner.Start(i);
  owner.RunToTheEnd();
  EXPECT_EQ(owner.ended(), 50);
  EXPECT_EQ(owner.sum(), 50 * 51 / 2);
  owner.Leave();
}

TEST(Jobs, AreStoppedAtAnyTime) {
  WorkQueue queue(Quick());
  std::mt19937 random(1);
  for (int times = 0; times < 200; ++times) {
    Owner owner(queue);
    owner.Start(1'000'000'000);
    owner.Start(1'000'000'000);
    for (unsigned turns = random() % 50; turns > 0; --turns) owner.Turn();
    owner.StopAll();
    owner.RunToTheEnd();
    EXPECT_EQ(owner.ended(), 2);
    owner.Leave();
  }
}

TEST(Jobs, TellNobodyOnceTheirOwnerHasLeft) {
  WorkQueue queue(Quick());
  for (int times = 0; times < 200; ++times) {
    Owner owner(queue);
    for (int i = 0; i < 5; ++i) owner.Start(times * 10);
    owner.Leave();
    const int ended = owner.ended();
    owner.Turn();
    EXPECT_EQ(owner.ended(), ended);
  }
}

TEST(Jobs, OfOwnersThatComeAndGoAtOnce) {
  WorkQueue queue(Quick());
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&queue, &wrong, t] {
      std::mt19937 random(t);
      for (int life = 0; life < 60; ++life) {
        Owner owner(queue);
        const int jobs = static_cast<int>(random() % 6);
        for (int i = 0; i < jobs; ++i) owner.Start(100);
        if (random() % 2 == 0) {
          owner.RunToTheEnd();
          if (owner.ended() != jobs || owner.sum() != 100 * jobs) ++wrong;
        }
        owner.Leave();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace selfedit
