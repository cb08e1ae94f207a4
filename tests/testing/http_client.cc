#include "testing/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

namespace baleen::testing {

std::vector<nlohmann::json> HttpReply::events() const {
  std::vector<nlohmann::json> events;
  size_t at = 0;
  while (true) {
    const size_t end = body.find("\n\n", at);
    if (end == std::string::npos) break;
    const std::string event = body.substr(at, end - at);
    at = end + 2;
    if (event.rfind("data: ", 0) != 0) {
      events.push_back("NOT AN EVENT: " + event);
      continue;
    }
    const std::string data = event.substr(6);
    events.push_back(data == "[DONE]" ? nlohmann::json(data) : nlohmann::json::parse(data));
  }
  if (at != body.size()) events.push_back("NOT ENDED: " + body.substr(at));
  return events;
}

HttpClient::HttpClient(int port, int receive_buffer_bytes) {
  fd_ = socket(AF_INET, SOCK_STREAM, 0);
  if (receive_buffer_bytes > 0)
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  const timeval timeout{.tv_sec = 20, .tv_usec = 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Close();
}

HttpClient::~HttpClient() { Close(); }

void HttpClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}
void HttpClient::HalfClose() { shutdown(fd_, SHUT_WR); }

bool HttpClient::Send(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<size_t>(n);
  }
  return true;
}

std::string HttpClient::Format(const std::string& method, const std::string& path,
                               const std::string& body, const HttpHeaders& headers) {
  std::ostringstream out;
  out << method << " " << path << " HTTP/1.1\r\nHost: test\r\n";
  for (const auto& [name, value] : headers) out << name << ": " << value << "\r\n";
  if (!body.empty() || method == "POST") out << "Content-Length: " << body.size() << "\r\n";
  out << "\r\n" << body;
  return out.str();
}

HttpReply HttpClient::Get(const std::string& path, const HttpHeaders& headers) {
  Send(Format("GET", path, "", headers));
  return Read();
}
HttpReply HttpClient::Post(const std::string& path, const nlohmann::json& body,
                           const HttpHeaders& headers) {
  Send(Format("POST", path, body.dump(), headers));
  return Read();
}
HttpReply HttpClient::PostText(const std::string& path, const std::string& body) {
  Send(Format("POST", path, body));
  return Read();
}

bool HttpClient::Fill() {
  char piece[65536];
  const ssize_t n = recv(fd_, piece, sizeof piece, 0);
  if (n <= 0) return false;
  buffer_.append(piece, static_cast<size_t>(n));
  return true;
}

std::string HttpClient::Take(size_t bytes) {
  while (buffer_.size() < bytes && Fill()) {
  }
  const size_t n = std::min(bytes, buffer_.size());
  std::string taken = buffer_.substr(0, n);
  buffer_.erase(0, n);
  return taken;
}

std::string HttpClient::ReadUntil(const std::string& text) {
  size_t from = 0;
  size_t at;
  while ((at = buffer_.find(text, from)) == std::string::npos) {
    from = buffer_.size() < text.size() ? 0 : buffer_.size() - text.size();
    if (!Fill()) return Take(buffer_.size());
  }
  return Take(at + text.size());
}

std::string HttpClient::ReadChunks() {
  std::string body;
  while (true) {
    const std::string size = ReadUntil("\r\n");
    if (size.size() < 3) return body;  // the connection ended
    const size_t bytes = std::stoul(size, nullptr, 16);
    body += Take(bytes);
    Take(2);
    if (bytes == 0) return body;
  }
}

HttpReply HttpClient::Read(bool head) {
  HttpReply reply;
  std::istringstream header(ReadUntil("\r\n\r\n"));
  std::string line;
  if (!std::getline(header, line) || line.size() < 12) return reply;
  const int status = std::stoi(line.substr(9, 3));
  while (std::getline(header, line) && line.size() > 1) {
    const size_t colon = line.find(": ");
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    reply.headers[name] = line.substr(colon + 2, line.size() - colon - 3);
  }
  if (status == 100) return Read(head);
  if (reply.headers.count("transfer-encoding") > 0) {
    reply.body = ReadChunks();
  } else if (reply.headers.count("content-length") > 0 && !head) {
    const size_t length = std::stoul(reply.headers["content-length"]);
    reply.body = Take(length);
    if (reply.body.size() < length) return reply;
  } else if (reply.headers["content-type"] == "text/event-stream") {
    while (Fill()) {
    }
    reply.body = Take(buffer_.size());
  }
  reply.status = status;
  return reply;
}

bool HttpClient::AtEnd() { return buffer_.empty() && !Fill(); }

}  // namespace baleen::testing
