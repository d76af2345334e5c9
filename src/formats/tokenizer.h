// tokenizer.json: byte-level BPE with the ids that Hugging Face tokenizers gives.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fairway::formats {

class Tokenizer {
 public:
  // Reads DIR/tokenizer.json and, if present, DIR/tokenizer_config.json (add_bos_token, bos_token).
  // Throws Error(kBadInput) with file and key; Error(kUnsupported) naming a model, normalizer, pre-tokenizer or
  // decoder kind that is not implemented.
  static Tokenizer load(const std::filesystem::path& model_dir);
  // From text, for tests and fuzzing; `config_json` may be empty.
  static Tokenizer parse(std::string_view tokenizer_json, std::string_view config_json, const std::string& name);

  // UTF-8 text -> ids; several threads may call this at once. Added tokens found in the text become their ids. Invalid
  // UTF-8 is Error(kBadInput) with the byte offset. No special tokens are added.
  std::vector<int> encode(std::string_view text) const;

  // The id that starts every text, or -1: bos_token if add_bos_token is true, or if it is absent and bos_token is set.
  int bos_id() const;

  // The bytes of one token (special tokens give their text); none for an id that the tokenizer does not have, such as
  // those up to which models pad their vocabulary.
  std::string_view token_bytes(int id) const;
  bool is_special(int id) const;
  int vocab_size() const;                        // largest id + 1
  int id_of(std::string_view token_text) const;  // of an added token or a vocabulary entry as written; -1 if none

  // ids -> text; special tokens are left out unless asked for; invalid UTF-8 becomes U+FFFD as Hugging Face does.
  std::string decode(const std::vector<int>& ids, bool keep_special = false) const;

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

 private:
  Tokenizer();
  struct State;
  std::unique_ptr<State> state_;
};

// Turns a stream of tokens into text without ever cutting a UTF-8 character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool keep_special = false);
  std::string push(int id);  // complete characters that became available, possibly empty
  std::string flush();       // what is left, an incomplete character as U+FFFD

 private:
  const Tokenizer& tokenizer_;
  bool keep_special_;
  std::string pending_;
};

// Token stream of a text file of one or more documents, as perplexity windows use it. Documents are separated by a
// line feed and a NUL. Each gives bos_id (if there is one) and then its pieces' tokens: a document is split at every
// "\n\n"; paragraphs are appended to the current piece until the sum of their lengths in code points exceeds 20,000;
// the piece is then its paragraphs joined by "\n\n" plus a trailing "\n\n", also at the end of a document. The last
// piece, what is left when the sum did not exceed the limit, has no trailing "\n\n". Throws as encode() does.
std::vector<int> encode_documents(const Tokenizer& tokenizer, std::string_view text);

}  // namespace fairway::formats
