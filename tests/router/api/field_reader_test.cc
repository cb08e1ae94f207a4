#include "router/api/field_reader.h"

#include "gmock/gmock.h"
#include "router/api/api_error.h"

namespace baleen::router {
namespace {

using ::testing::ElementsAre;

TEST(FieldReader, ReadsTypesAndTakesNullAsAbsent) {
  const Json json = Json::parse(
      R"({"b":true,"i":3,"f":3.0,"n":0.5,"s":"x","o":{},"a":[],"null":null,"big":1e30})");
  FieldReader fields(json);
  EXPECT_EQ(fields.Bool("b"), true);
  EXPECT_EQ(fields.Int("i"), 3);
  EXPECT_EQ(fields.Int("f"), 3);
  EXPECT_EQ(fields.Number("n"), 0.5);
  EXPECT_EQ(fields.Number("i"), 3.0);
  EXPECT_EQ(fields.String("s"), "x");
  EXPECT_NE(fields.Object("o"), nullptr);
  EXPECT_NE(fields.Array("a"), nullptr);
  EXPECT_EQ(fields.Int("null"), std::nullopt);
  EXPECT_EQ(fields.Int("absent"), std::nullopt);
  EXPECT_TRUE(fields.status().ok());
  EXPECT_EQ(fields.Int("big"), std::nullopt);
  EXPECT_FALSE(fields.status().ok());
}

TEST(FieldReader, KeepsTheFirstErrorWithItsField) {
  const Json json = {{"a", "x"}, {"b", "y"}};
  FieldReader fields(json, "outer.");
  EXPECT_EQ(fields.Int("a"), std::nullopt);
  EXPECT_EQ(fields.Bool("b"), std::nullopt);
  EXPECT_EQ(ParamOf(fields.status()), "outer.a");
  EXPECT_EQ(fields.status().message(), "outer.a: must be an integer");
}

TEST(FieldReader, ListsWhatNobodyAskedFor) {
  const Json json = {{"known", 1}, {"ignored", 2}, {"odd", 3}, {"other", 4}};
  FieldReader fields(json);
  fields.Int("known");
  fields.Ignore({"ignored"});
  EXPECT_THAT(fields.UnknownFields(), ElementsAre("odd", "other"));
}

TEST(FieldReader, RefusesWhatHasAnEffectOnly) {
  const Json json =
      Json::parse(R"({"null":null,"no":false,"text":"","list":[],"zero":0,"yes":true})");
  FieldReader fields(json);
  fields.Refuse({"absent", "null", "no", "text", "list"});
  EXPECT_TRUE(fields.status().ok());
  EXPECT_THAT(fields.UnknownFields(), ElementsAre("zero", "yes"));
  fields.Refuse({"yes"});
  EXPECT_EQ(fields.status().message(), "yes: is not supported");
  FieldReader other(json);
  other.Refuse({"zero"});  // may be an id
  EXPECT_EQ(ParamOf(other.status()), "zero");
}

}  // namespace
}  // namespace baleen::router
