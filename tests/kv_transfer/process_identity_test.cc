#include "kv_transfer/process_identity.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace baleen::kv_transfer {
namespace {

TEST(ProcessIdentity, IsOfThisProcess) {
  const ProcessIdentity self = SelfIdentity();
  EXPECT_EQ(self.pid, getpid());
  EXPECT_FALSE(self.boot_id.empty());
  EXPECT_NE(self.pid_namespace, 0u);
  EXPECT_NE(self.start_time, 0u);
  EXPECT_FALSE(ProcessWatch(self, self).Gone());
}

TEST(ProcessWatch, SeesAChildDie) {
  const ProcessIdentity self = SelfIdentity();
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const ProcessIdentity mine = SelfIdentity();
    [[maybe_unused]] ssize_t n = write(ready[1], &mine.start_time, sizeof(mine.start_time));
    pause();
    _exit(0);
  }
  ProcessIdentity peer = self;
  peer.pid = child;
  ASSERT_EQ(read(ready[0], &peer.start_time, sizeof(peer.start_time)),
            ssize_t(sizeof(peer.start_time)));
  ProcessWatch watch(peer, self);
  EXPECT_FALSE(watch.Gone());
  kill(child, SIGSTOP);
  EXPECT_FALSE(watch.Gone()) << "stopped is not dead";
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(watch.Gone());
  EXPECT_TRUE(ProcessWatch(peer, self).Gone()) << "dead already";
  close(ready[0]);
  close(ready[1]);
}

TEST(ProcessWatch, ARecycledPidIsADeadPeer) {
  const ProcessIdentity self = SelfIdentity();
  ProcessIdentity earlier = self;
  earlier.start_time -= 1;
  EXPECT_TRUE(ProcessWatch(earlier, self).Gone());
}

TEST(ProcessWatch, SaysNothingOfOtherMachinesAndNamespaces) {
  const ProcessIdentity self = SelfIdentity();
  ProcessIdentity elsewhere = self;
  elsewhere.boot_id = "another kernel";
  elsewhere.start_time -= 1;
  EXPECT_FALSE(ProcessWatch(elsewhere, self).Gone());
  elsewhere = self;
  elsewhere.pid_namespace += 1;
  elsewhere.start_time -= 1;
  EXPECT_FALSE(ProcessWatch(elsewhere, self).Gone());
}

}  // namespace
}  // namespace baleen::kv_transfer
