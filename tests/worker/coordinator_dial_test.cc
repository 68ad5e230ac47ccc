#include "worker/coordinator_dial.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "proto/cluster.grpc.pb.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

// Says whether it leads, or nothing until it dies.
class Coordinator final : public v1::Cluster::Service {
 public:
  explicit Coordinator(bool answers = true) : answers_(answers) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~Coordinator() override {
    over_.Notify();
    server_->Shutdown(std::chrono::system_clock::now());
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  void Leads(uint64_t epoch) { epoch_ = epoch; }
  int asked() const { return asked_; }

  grpc::Status Lead(grpc::ServerContext*, const v1::LeadRequest*, v1::LeadReply* reply) override {
    ++asked_;
    if (!answers_) over_.WaitForNotification();
    reply->set_leads(epoch_ > 0);
    reply->set_lead_epoch(epoch_);
    return grpc::Status::OK;
  }

 private:
  const bool answers_;
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> asked_{0};
  absl::Notification over_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

constexpr absl::Duration kPatience = absl::Seconds(20);

CoordinatorDial DialTo(const std::vector<std::string>& addresses, absl::Duration patience = kPatience) {
  return CoordinatorDial(absl::StrJoin(addresses, ","), std::make_shared<const ClusterSecurity>(), patience);
}

TEST(CoordinatorDialTest, TheOnlyOneIsNotAsked) {
  Coordinator only;
  CoordinatorDial dial = DialTo({only.address()});
  EXPECT_EQ(dial.Next().value().address, only.address());
  EXPECT_EQ(only.asked(), 0);
}

TEST(CoordinatorDialTest, OfSeveralTheOneThatLeads) {
  Coordinator a, b, c;
  CoordinatorDial dial = DialTo({a.address(), b.address(), c.address()});
  EXPECT_THAT(dial.Next(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(b.address() + " does not lead")));
  b.Leads(4);
  EXPECT_EQ(dial.Next().value().address, b.address());
  b.Leads(0);
  c.Leads(5);
  EXPECT_EQ(dial.Next().value().address, c.address());
}

TEST(CoordinatorDialTest, WhoIsGoneOrSaysNothingHoldsNobodyUp) {
  Coordinator silent(false), leads;
  leads.Leads(1);
  CoordinatorDial dial = DialTo({"127.0.0.1:1", silent.address(), leads.address()}, absl::Hours(1));
  EXPECT_EQ(dial.Next().value().address, leads.address());
  leads.Leads(0);
  CoordinatorDial hasty = DialTo({silent.address(), leads.address()}, absl::Milliseconds(50));
  EXPECT_THAT(hasty.Next(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("none of the coordinators leads")));
}

TEST(CoordinatorDialTest, AnEpochThatIsOverIsPassedOver) {
  Coordinator former, present;
  former.Leads(3);
  CoordinatorDial dial = DialTo({former.address(), present.address()});
  EXPECT_TRUE(dial.MayObey(0)) << "one that leads alone";
  EXPECT_TRUE(dial.MayObey(3));
  EXPECT_TRUE(dial.MayObey(4));
  EXPECT_FALSE(dial.MayObey(3));
  EXPECT_TRUE(dial.MayObey(4));
  EXPECT_EQ(dial.obeyed(), 4u);
  EXPECT_THAT(dial.Next(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("does not lead")));
  present.Leads(4);
  EXPECT_EQ(dial.Next().value().address, present.address());
}

TEST(CoordinatorDialTest, ReadsListsWithSpaces) {
  EXPECT_EQ(CoordinatorAddresses(" a:1, b:2 ,"), (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_TRUE(CoordinatorAddresses("").empty());
}

}  // namespace
}  // namespace interlace
