#pragma once

// The texts of DeepSeek's special tokens and of the tags made with them. Bars are U+FF5C, spaces
// U+2581.
namespace baleen::chat {

inline constexpr char kBos[] = "<｜begin▁of▁sentence｜>";
inline constexpr char kEos[] = "<｜end▁of▁sentence｜>";
inline constexpr char kUser[] = "<｜User｜>";
inline constexpr char kAssistant[] = "<｜Assistant｜>";
inline constexpr char kThinkBegin[] = "<think>";
inline constexpr char kThinkEnd[] = "</think>";

// DSML, V3.2's tool calls. The opening tags of calls and parameters go on with attributes.
inline constexpr char kDsml[] = "｜DSML｜";
inline constexpr char kCallsOpen[] = "<｜DSML｜function_calls>";
inline constexpr char kCallsClose[] = "</｜DSML｜function_calls>";
inline constexpr char kInvokeOpen[] = "<｜DSML｜invoke";
inline constexpr char kInvokeClose[] = "</｜DSML｜invoke>";
inline constexpr char kParameterOpen[] = "<｜DSML｜parameter";
inline constexpr char kParameterClose[] = "</｜DSML｜parameter>";

// V3.1's tool calls.
inline constexpr char kToolCallsBegin[] = "<｜tool▁calls▁begin｜>";
inline constexpr char kToolCallsEnd[] = "<｜tool▁calls▁end｜>";
inline constexpr char kToolCallBegin[] = "<｜tool▁call▁begin｜>";
inline constexpr char kToolCallEnd[] = "<｜tool▁call▁end｜>";
inline constexpr char kToolSep[] = "<｜tool▁sep｜>";
inline constexpr char kToolOutputBegin[] = "<｜tool▁output▁begin｜>";
inline constexpr char kToolOutputEnd[] = "<｜tool▁output▁end｜>";

}  // namespace baleen::chat
