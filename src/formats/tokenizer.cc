// Reads tokenizer.json and encodes: added tokens, normalization, added tokens again, words, merges.
#include "formats/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "fairway/error.h"
#include "formats/added_tokens.h"
#include "formats/bpe.h"
#include "formats/byte_symbols.h"
#include "formats/json.h"
#include "formats/json_field.h"
#include "formats/mapped_file.h"
#include "formats/pre_tokenizer.h"
#include "formats/text_normalizer.h"
#include "formats/token_limits.h"
#include "formats/utf8.h"
#include "formats/word_cache.h"

namespace fairway::formats {
namespace {

// What decoding needs of one id.
struct TokenInfo {
  std::string bytes;
  bool special = false;
};

// A text made of byte symbols only stands for those bytes, any other for itself.
std::string decoded_bytes(const std::string& text) {
  return symbols_to_bytes(text).value_or(text);
}

// ByteLevel turns all tokens into one text, so after it Fuse has nothing left to do; before it, it would.
void check_decoder(const JsonField& field) {
  const std::string& type = field.type();
  if (type == "ByteLevel") return;
  if (type != "Sequence")
    field.unsupported(fmt::format("decoder \"{}\" is not implemented; expected ByteLevel", printable(type, 60)));
  const JsonField parts = field.at("decoders");
  if (parts.array_size() == 0) parts.unsupported("an empty decoder is not implemented; expected ByteLevel");
  for (std::size_t i = 0; i < parts.array_size(); ++i) {
    const std::string& part = parts.element(i).type();
    if (part != (i == 0 ? "ByteLevel" : "Fuse")) {
      parts.element(i).unsupported(fmt::format(
          "decoder \"{}\" is not implemented here; expected ByteLevel, then at most Fuse", printable(part, 60)));
    }
  }
}

// The component under `key`, which byte-level tokenizers cannot do without.
JsonField component(const JsonField& root, std::string_view key) {
  JsonField field = root.at(key);
  if (field.json().is_null()) field.unsupported("null is not implemented; expected a ByteLevel component");
  return field;
}

std::string config_name(const std::string& name) {
  constexpr std::string_view kFile = "tokenizer.json";
  if (!name.ends_with(kFile)) return name + " (tokenizer_config.json)";
  return name.substr(0, name.size() - kFile.size()) + "tokenizer_config.json";
}

// bos_token is a string, or an object that holds it under "content". Nothing if absent or null.
std::optional<std::string> bos_text(const JsonField& config) {
  const auto field = config.find("bos_token");
  if (!field) return std::nullopt;
  return field->json().is_object() ? field->at("content").string() : field->string();
}

}  // namespace

struct Tokenizer::State {
  State(BpeModel bpe, PreTokenizer pre) : model(std::move(bpe)), pre_tokenizer(std::move(pre)) {}

  void add_tokens(const JsonField& root);
  void index_tokens();
  void read_config(const JsonField& config);
  void encode_words(std::string_view text, WordCache& cache, Words& words, std::vector<int>& ids) const;

  TextNormalizer normalizer;
  BpeModel model;
  PreTokenizer pre_tokenizer;
  std::vector<AddedToken> added;
  AddedTokenFinder in_raw_text;
  AddedTokenFinder in_normalized_text;
  std::unordered_map<int, TokenInfo> tokens;
  int vocab_size = 0;
  int bos_id = -1;

  // Shared by calls that do not overlap; one that finds it in use works with a cache of its own.
  std::mutex cache_mutex;
  WordCache cache;
};

void Tokenizer::State::add_tokens(const JsonField& root) {
  const auto field = root.find("added_tokens");
  if (!field) return;
  added = parse_added_tokens(*field, normalizer);
  std::unordered_map<int, const std::string*> owners;
  for (const auto& [text, id] : model.vocabulary()) owners.emplace(id, &text);
  for (const AddedToken& token : added) {
    const int id = model.id_of(token.content);
    const auto owner = owners.find(token.id);
    if (id >= 0 ? id != token.id : owner != owners.end()) {
      field->bad(fmt::format("\"{}\" has id {}, but model.vocab {}", printable(token.content, 60), token.id,
                             id >= 0 ? fmt::format("gives it {}", id)
                                     : fmt::format("gives that to \"{}\"", printable(*owner->second, 60))));
    }
  }
  std::vector<const AddedToken*> raw;
  std::vector<const AddedToken*> normalized;
  for (const AddedToken& token : added) (token.normalized ? normalized : raw).push_back(&token);
  in_raw_text = AddedTokenFinder(raw);
  in_normalized_text = AddedTokenFinder(normalized);
}

void Tokenizer::State::index_tokens() {
  tokens.reserve(model.vocabulary().size() + added.size());
  for (const auto& [text, id] : model.vocabulary()) tokens[id].bytes = decoded_bytes(text);
  for (const AddedToken& token : added) tokens[token.id] = {decoded_bytes(token.pattern), token.special};
  for (const auto& [id, info] : tokens) vocab_size = std::max(vocab_size, id + 1);
}

void Tokenizer::State::read_config(const JsonField& config) {
  const auto add = config.find("add_bos_token");
  const bool wanted = add ? add->boolean() : true;
  const std::optional<std::string> text = bos_text(config);
  if (!wanted) return;
  if (!text) {
    if (add) config.bad("add_bos_token is true, but there is no bos_token");
    return;
  }
  for (const AddedToken& token : added) {
    if (token.content == *text) bos_id = token.id;
  }
  if (bos_id < 0) bos_id = model.id_of(*text);
  if (bos_id < 0)
    config.at("bos_token").bad(fmt::format("\"{}\" is not a token of the tokenizer", printable(*text, 60)));
}

void Tokenizer::State::encode_words(std::string_view text, WordCache& word_cache, Words& words,
                                    std::vector<int>& ids) const {
  pre_tokenizer.split(text, words);
  std::size_t begin = 0;
  for (const std::size_t end : words.ends) {
    word_cache.encode(model, std::string_view(words.bytes).substr(begin, end - begin), ids);
    begin = end;
  }
}

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::parse(std::string_view tokenizer_json, std::string_view config_json, const std::string& name) {
  const nlohmann::json document = parse_json(tokenizer_json, name, {.max_bytes = kMaxTokenizerBytes});
  const JsonField root(document, name);
  if (const auto version = root.find("version"); version && version->string() != "1.0") {
    version->unsupported(fmt::format("\"{}\" is not implemented; expected 1.0", printable(version->string(), 60)));
  }
  Tokenizer tokenizer;
  BpeModel model = BpeModel::parse(root.at("model"));
  tokenizer.state_ = std::make_unique<State>(std::move(model), PreTokenizer::parse(component(root, "pre_tokenizer")));
  State& state = *tokenizer.state_;
  if (const auto normalizer = root.find("normalizer")) state.normalizer = TextNormalizer::parse(*normalizer);
  check_decoder(component(root, "decoder"));
  state.add_tokens(root);
  state.index_tokens();
  if (!config_json.empty()) {
    const std::string config_file = config_name(name);
    const nlohmann::json config = parse_json(config_json, config_file);
    state.read_config(JsonField(config, config_file));
  }
  return tokenizer;
}

Tokenizer Tokenizer::load(const std::filesystem::path& model_dir) {
  const std::filesystem::path file = model_dir / "tokenizer.json";
  const std::filesystem::path config = model_dir / "tokenizer_config.json";
  const std::string config_text =
      std::filesystem::exists(config) ? read_text_file(config, kMaxTokenizerBytes) : std::string();
  return parse(read_text_file(file, kMaxTokenizerBytes), config_text, file.string());
}

std::vector<int> Tokenizer::encode(std::string_view text) const {
  if (const std::size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    throw Error(ErrorKind::kBadInput, fmt::format("text to tokenize is not valid UTF-8 at byte {}", bad));
  }
  const std::unique_lock lock(state_->cache_mutex, std::try_to_lock);
  WordCache own;
  WordCache& cache = lock.owns_lock() ? state_->cache : own;
  Words words;
  std::vector<int> ids;
  const auto add_words = [&](int id, std::string_view part) {
    if (id >= 0) return ids.push_back(id);
    state_->encode_words(part, cache, words, ids);
  };
  state_->in_raw_text.for_each(text, [&](int id, std::string_view part) {
    if (id >= 0) return ids.push_back(id);
    if (state_->normalizer.changes_nothing()) return state_->in_normalized_text.for_each(part, add_words);
    const std::string normalized = state_->normalizer.apply(part);
    state_->in_normalized_text.for_each(normalized, add_words);
  });
  return ids;
}

int Tokenizer::bos_id() const {
  return state_->bos_id;
}

int Tokenizer::vocab_size() const {
  return state_->vocab_size;
}

std::string_view Tokenizer::token_bytes(int id) const {
  const auto found = state_->tokens.find(id);
  return found == state_->tokens.end() ? std::string_view() : std::string_view(found->second.bytes);
}

bool Tokenizer::is_special(int id) const {
  const auto found = state_->tokens.find(id);
  return found != state_->tokens.end() && found->second.special;
}

int Tokenizer::id_of(std::string_view token_text) const {
  const auto found = std::find_if(state_->added.begin(), state_->added.end(),
                                  [&](const AddedToken& token) { return token.content == token_text; });
  return found != state_->added.end() ? found->id : state_->model.id_of(token_text);
}

}  // namespace fairway::formats
