#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace baleen::testing {

using HttpHeaders = std::map<std::string, std::string>;

struct HttpReply {
  int status = 0;       // 0: the connection ended before a whole reply came
  HttpHeaders headers;  // names in lower case
  std::string body;     // chunks joined

  nlohmann::json json() const { return nlohmann::json::parse(body); }
  // The payloads of "data: …\n\n" events; "[DONE]" stays a string.
  std::vector<nlohmann::json> events() const;
};

// A blocking HTTP/1.1 client over one plain socket, which does exactly what it is told, wrong
// things included. Reads give up after 20 s.
class HttpClient {
 public:
  // `receive_buffer_bytes`: the kernel's; 0 leaves it.
  explicit HttpClient(int port, int receive_buffer_bytes = 0);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool Send(const std::string& bytes);  // false: the peer closed
  void HalfClose();
  void Close();

  // A whole request; HTTP/1.1, with Content-Length.
  static std::string Format(const std::string& method, const std::string& path,
                            const std::string& body = "", const HttpHeaders& headers = {});
  HttpReply Get(const std::string& path, const HttpHeaders& headers = {});
  HttpReply Post(const std::string& path, const nlohmann::json& body,
                 const HttpHeaders& headers = {});
  HttpReply PostText(const std::string& path, const std::string& body);

  // The next reply. `head`: it has no body whatever its headers say.
  HttpReply Read(bool head = false);
  // Reads until `text` was received; what came so far, with `text` unless the connection ended.
  std::string ReadUntil(const std::string& text);
  // True when the peer closed and nothing is left to read.
  bool AtEnd();

 private:
  bool Fill();  // more bytes; false at the end
  std::string Take(size_t bytes);
  std::string ReadChunks();

  int fd_ = -1;
  std::string buffer_;
};

}  // namespace baleen::testing
