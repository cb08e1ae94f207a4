// A prefill stage without a model, for tests between real processes: a UCX transport, links and a
// sender over pages with a known pattern. Obeys lines on stdin, tells what happens on stdout; ends
// with stdin.
//
//   transfer_peer NAME TRANSPORTS PAGES PAGE_BYTES [FINGERPRINT]
//   > begin ATTEMPT PAGES DECODE_INCARNATION      > pages ATTEMPT FIRST COUNT
//   > handoff ATTEMPT TOKEN                       > abort ATTEMPT
//   > flood DECODE_INCARNATION                    puts pages for ever, grant or not
//   > hello ADDRESS_HEX INCARNATION BYTES         connects and sends a message of BYTES, echoed
//   bytes follow > churn ADDRESS_HEX INCARNATION               connects, waits until up, closes,
//   says "churned" < address HEX INCARNATION < closed ATTEMPT CODE                         < link
//   STATE
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "kv_transfer/kv_sender.h"
#include "kv_transfer/link_table.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "tests/kv_transfer/page_pattern.h"

namespace baleen::kv_transfer::testing {
namespace {

void Say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

class Peer {
 public:
  Peer(const std::string& name, const std::string& transports, int pages, size_t page_bytes,
       const std::string& fingerprint)
      : memory_(size_t(pages) * page_bytes), page_bytes_(page_bytes) {
    for (int page = 0; page < pages; ++page)
      FillPage({memory_.data() + size_t(page) * page_bytes, page_bytes}, page);
    auto transport = CreateUcxTransport({.name = name, .transports = transports});
    BALEEN_CHECK_MSG(transport.ok(), transport.status().ToString().c_str());
    transport_ = *std::move(transport);
    auto links = LinkTable::Create(*transport_,
                                   {.name = name,
                                    .incarnation = Incarnation{RandomId()},
                                    .fingerprint = {{"model", fingerprint}},
                                    .pool = {.base = memory_.data(),
                                             .page_stride = page_bytes,
                                             .page_bytes = page_bytes,
                                             .pages = pages}},
                                   metrics_);
    BALEEN_CHECK_MSG(links.ok(), links.status().ToString().c_str());
    links_ = *std::move(links);
    sender_ = KvSender::Create(*links_, {},
                               {.closed =
                                    [](AttemptId id, absl::Status s) {
                                      Say(absl::StrCat("closed ", id.value, " ", int(s.code())));
                                    }},
                               metrics_);
    RunOn(*transport_, [this] {
      links_->AddObserver([this](LinkId link, LinkState state, const absl::Status&) {
        Say(absl::StrCat("link ", Name(state)));
        if (churning_ && state == LinkState::kUp) {
          transport_->Post([this, link] {
            links_->Close(link, absl::CancelledError("churn"));
            Say("churned");
          });
        }
      });
    });
    const PeerAddress self = links_->Self();
    Say(absl::StrCat("address ", absl::BytesToHexString(self.transport_address), " ",
                     self.incarnation.value));
  }

  void Obey(const std::string& line) {
    std::istringstream in(line);
    std::string verb, address;
    uint64_t attempt = 0, a = 0, b = 0;
    in >> verb;
    if (verb == "begin" && in >> attempt >> a >> b)
      sender_->Begin({.id = AttemptId{attempt}, .pages = int(a), .decode = Incarnation{b}});
    if (verb == "pages" && in >> attempt >> a >> b) {
      std::vector<PageId> pages;
      for (uint64_t page = a; page < a + b; ++page) pages.push_back(PageId{int32_t(page)});
      sender_->PagesReady(AttemptId{attempt}, int(a), pages);
    }
    if (verb == "handoff" && in >> attempt >> a)
      sender_->Handoff(AttemptId{attempt}, {.first_token = uint32_t(a)});
    if (verb == "abort" && in >> attempt)
      sender_->Abort(AttemptId{attempt}, absl::CancelledError("abort"));
    if (verb == "flood" && in >> a) transport_->Post([this, a] { Flood(Incarnation{a}); });
    if (verb == "hello" && in >> address >> a >> b)
      transport_->Post([this, address, a, b] { Hello(address, a, b); });
    if (verb == "churn" && in >> address >> a) {
      churning_ = true;
      transport_->Post([this, address, a] { Connect(address, a); });
    }
  }

 private:
  LinkId Connect(const std::string& address, uint64_t incarnation) {
    auto link = links_->Connect({.name = "decode",
                                 .transport_address = absl::HexStringToBytes(address),
                                 .incarnation = Incarnation{incarnation}});
    BALEEN_CHECK(link.ok());
    return *link;
  }
  void Hello(const std::string& address, uint64_t incarnation, uint64_t bytes) {
    const LinkId link = Connect(address, incarnation);
    auto big = std::make_shared<std::vector<std::byte>>(bytes);
    FillPage(*big, int(bytes));
    const std::span<const std::byte> payload = *big;
    for (uint64_t size : {bytes, uint64_t{8}}) {
      const std::span<const std::byte> piece = payload.first(size);
      links_->Send(link, kFirstUserType, std::as_bytes(std::span(&size, 1)), {&piece, 1},
                   [big](const absl::Status&) {});
    }
  }
  // Keeps 16 puts going, whatever the owner thinks of it.
  void Flood(Incarnation decode) {
    for (int i = 0; i < 16; ++i) PutOne(decode);
    Say("flooding");
  }
  void PutOne(Incarnation decode) {
    const auto link = links_->Find(decode);
    if (!link) return;
    const LinkTable::PagePut put = {.local = {memory_.data(), page_bytes_}, .page = PageId{0}};
    links_->PutPages(*link, {&put, 1}, 0, [this, decode](const absl::Status& s) {
      if (s.ok()) PutOne(decode);
    });
  }

  std::vector<std::byte> memory_;
  const size_t page_bytes_;
  Metrics metrics_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<LinkTable> links_;
  std::unique_ptr<KvSender> sender_;
  std::atomic<bool> churning_{false};
};

}  // namespace
}  // namespace baleen::kv_transfer::testing

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  baleen::InitLog(argv[1]);
  baleen::kv_transfer::testing::Peer peer(argv[1], argv[2], std::stoi(argv[3]), std::stoul(argv[4]),
                                          argc > 5 ? argv[5] : "tiny");
  for (std::string line; std::getline(std::cin, line);) peer.Obey(line);
  return 0;
}
