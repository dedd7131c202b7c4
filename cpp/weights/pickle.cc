#include "weights/pickle.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "core/quote.h"
#include "weights/layout.h"

// Source: CPython's pickletools.py for the opcodes, torch/_utils.py and torch/serialization.py for what they build.
namespace quire {
namespace {

enum class Function { kOrderedDict, kRebuildTensor, kRebuildParameter };

constexpr std::array<std::pair<std::string_view, Function>, 3> kFunctions = {{
    {"collections.OrderedDict", Function::kOrderedDict},
    {"torch._utils._rebuild_tensor_v2", Function::kRebuildTensor},
    {"torch._utils._rebuild_parameter", Function::kRebuildParameter},
}};

constexpr std::array<std::pair<std::string_view, DType>, 10> kStorageTypes = {{
    {"torch.FloatStorage", DType::kFloat32},
    {"torch.HalfStorage", DType::kFloat16},
    {"torch.BFloat16Storage", DType::kBFloat16},
    {"torch.DoubleStorage", DType::kFloat64},
    {"torch.LongStorage", DType::kInt64},
    {"torch.IntStorage", DType::kInt32},
    {"torch.ShortStorage", DType::kInt16},
    {"torch.CharStorage", DType::kInt8},
    {"torch.ByteStorage", DType::kUInt8},
    {"torch.BoolStorage", DType::kBool},
}};

/// What stands on the stack. Text points into the pickle; tuples, dictionaries, storages and tensors lie in the
/// interpreter's own lists, so that a copy means the same object.
struct Value {
  enum class Kind { kNone, kBool, kInteger, kText, kFunction, kStorageType, kTuple, kDict, kStorage, kTensor };
  Kind kind = Kind::kNone;
  int64_t number = 0;  ///< the integer, or the index into the list of that kind
  std::string_view text;
};

struct Storage {
  DType dtype;
  std::string_view key;
  int64_t elements;
};

class Interpreter {
 public:
  Interpreter(std::string_view pickle, std::string_view where) : pickle_(pickle), where_(where) {}

  std::vector<PickledTensor> run() {
    while (step(static_cast<unsigned char>(bytes(1)[0]))) {
    }
    return result(pop(Value::Kind::kDict));
  }

 private:
  using Kind = Value::Kind;
  using Dict = std::vector<std::pair<Value, Value>>;

  void require(bool condition, std::string_view problem) const {
    QUIRE_REQUIRE(condition, ErrorKind::kInvalidArgument, "[", where_, "] not a dictionary of tensors: ", problem,
                  ", at byte ", at_, " of its pickle; convert the file to safetensors");
  }

  std::string_view bytes(uint64_t count) {
    require(count <= pickle_.size() - at_, "the pickle ends too early");
    const std::string_view result = pickle_.substr(at_, count);
    at_ += count;
    return result;
  }

  /// Little endian, without sign.
  uint64_t number(int width) {
    const std::string_view field = bytes(width);
    uint64_t value = 0;
    for (int i = 0; i < width; ++i) value |= static_cast<uint64_t>(static_cast<unsigned char>(field[i])) << (8 * i);
    return value;
  }

  std::string_view line() {
    const size_t end = pickle_.find('\n', at_);
    require(end != std::string_view::npos, "the pickle ends too early");
    const std::string_view result = bytes(end - at_);
    bytes(1);
    return result;
  }

  void push(Value value) { stack_.push_back(value); }
  void push_integer(int64_t value) { push({.kind = Kind::kInteger, .number = value}); }
  void push_text(std::string_view text) { push({.kind = Kind::kText, .text = text}); }

  template <typename T>
  void push_new(Kind kind, std::vector<T>& list, T item) {
    list.push_back(std::move(item));
    push({.kind = kind, .number = static_cast<int64_t>(list.size()) - 1});
  }

  Value& top() {
    require(stack_.size() > floor(), "the pickle takes more than it put");
    return stack_.back();
  }
  /// Nothing below the last mark may be taken by an ordinary opcode.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  Value pop() {
    const Value value = top();
    stack_.pop_back();
    return value;
  }
  Value pop(Kind kind) {
    const Value value = pop();
    require(value.kind == kind, "a value of unexpected kind");
    return value;
  }

  std::vector<Value> pop_to_mark() {
    require(!marks_.empty(), "the pickle takes more than it put");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Value> values(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return values;
  }

  void push_tuple(size_t size) {
    require(stack_.size() - floor() >= size, "the pickle takes more than it put");
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(size);
    std::vector<Value> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    push_new(Kind::kTuple, tuples_, std::move(items));
  }

  /// Do one opcode; false at the end of the pickle.
  bool step(unsigned char opcode) {
    switch (opcode) {
      case 0x80: bytes(1); break;                                       // PROTO
      case 0x95: bytes(8); break;                                       // FRAME
      case '.': return false;                                           // STOP
      case '(': marks_.push_back(stack_.size()); break;                 // MARK
      case 'N': push({}); break;                                        // NONE
      case 0x88: push({.kind = Kind::kBool, .number = 1}); break;       // NEWTRUE
      case 0x89: push({.kind = Kind::kBool, .number = 0}); break;       // NEWFALSE
      case 'K': push_integer(static_cast<int64_t>(number(1))); break;   // BININT1
      case 'M': push_integer(static_cast<int64_t>(number(2))); break;   // BININT2
      case 'J': push_integer(static_cast<int32_t>(number(4))); break;   // BININT
      case 0x8a: push_long(number(1)); break;                           // LONG1
      case 'X': push_text(bytes(number(4))); break;                     // BINUNICODE
      case 0x8c: push_text(bytes(number(1))); break;                    // SHORT_BINUNICODE
      case 'q': memo_[number(1)] = top(); break;                        // BINPUT
      case 'r': memo_[number(4)] = top(); break;                        // LONG_BINPUT
      case 0x94: memo_[memo_.size()] = top(); break;                    // MEMOIZE
      case 'h': recall(number(1)); break;                               // BINGET
      case 'j': recall(number(4)); break;                               // LONG_BINGET
      case ')': push_tuple(0); break;                                   // EMPTY_TUPLE
      case 0x85: push_tuple(1); break;                                  // TUPLE1
      case 0x86: push_tuple(2); break;                                  // TUPLE2
      case 0x87: push_tuple(3); break;                                  // TUPLE3
      case 't': push_new(Kind::kTuple, tuples_, pop_to_mark()); break;  // TUPLE
      case '}': push_new(Kind::kDict, dicts_, Dict()); break;           // EMPTY_DICT
      case 's': set_item(); break;                                      // SETITEM
      case 'u': set_items(); break;                                     // SETITEMS
      case 'c': push_global_from_lines(); break;                        // GLOBAL
      case 0x93: push_global_from_stack(); break;                       // STACK_GLOBAL
      case 'Q': push_storage(); break;                                  // BINPERSID
      case 'R': reduce(); break;                                        // REDUCE
      case 'b': build(); break;                                         // BUILD
      default: require(false, detail::join_message("it asks for opcode ", int{opcode}, ", which no tensor needs"));
    }
    return true;
  }

  /// Two's complement of up to 8 bytes.
  void push_long(uint64_t width) {
    require(width <= 8, "an integer of more than 64 bits");
    const int bits = static_cast<int>(8 * width);
    uint64_t value = number(static_cast<int>(width));
    if (bits > 0 && bits < 64 && (value >> (bits - 1)) != 0) value |= ~uint64_t{0} << bits;
    push_integer(static_cast<int64_t>(value));
  }

  void recall(uint64_t index) {
    const auto found = memo_.find(index);
    require(found != memo_.end(), "the pickle refers to what it has not kept");
    push(found->second);
  }

  void set_item() {
    const Value value = pop();
    const Value key = pop();
    dict_on_top().emplace_back(key, value);
  }

  void set_items() {
    const std::vector<Value> values = pop_to_mark();
    require(values.size() % 2 == 0, "a key without a value");
    Dict& dict = dict_on_top();
    for (size_t i = 0; i < values.size(); i += 2) dict.emplace_back(values[i], values[i + 1]);
  }

  Dict& dict_on_top() {
    require(top().kind == Kind::kDict, "a value of unexpected kind");
    return dicts_[top().number];
  }

  void push_global_from_lines() {
    const std::string_view module = line();
    push_global(module, line());
  }

  void push_global_from_stack() {
    const std::string_view name = pop(Kind::kText).text;
    push_global(pop(Kind::kText).text, name);
  }

  void push_global(std::string_view module, std::string_view name) {
    const std::string full = detail::join_message(module, ".", name);
    for (const auto& [known, function] : kFunctions) {
      if (full == known) return push({.kind = Kind::kFunction, .number = static_cast<int64_t>(function)});
    }
    for (const auto& [known, dtype] : kStorageTypes) {
      if (full == known) return push({.kind = Kind::kStorageType, .number = static_cast<int64_t>(dtype)});
    }
    throw Error(ErrorKind::kInvalidArgument,
                detail::join_message("[", where_, "] the pickle names what is no tensor: global=", in_quotes(full),
                                     "; nothing of it was run; convert the file to safetensors"));
  }

  /// ("storage", type, key, location, number of elements)
  void push_storage() {
    const std::vector<Value>& id = tuples_[pop(Kind::kTuple).number];
    require(id.size() == 5 && id[0].kind == Kind::kText && id[0].text == "storage" &&
                id[1].kind == Kind::kStorageType && id[2].kind == Kind::kText && id[4].kind == Kind::kInteger &&
                id[4].number >= 0,
            "a storage of unknown form");
    push_new(Kind::kStorage, storages_, Storage{static_cast<DType>(id[1].number), id[2].text, id[4].number});
  }

  void reduce() {
    const std::vector<Value>& arguments = tuples_[pop(Kind::kTuple).number];
    switch (static_cast<Function>(pop(Kind::kFunction).number)) {
      case Function::kOrderedDict:
        require(arguments.empty(), "an OrderedDict with arguments");
        push_new(Kind::kDict, dicts_, Dict());
        break;
      case Function::kRebuildTensor: rebuild_tensor(arguments); break;
      case Function::kRebuildParameter:
        require(!arguments.empty() && arguments[0].kind == Kind::kTensor, "a parameter of unknown form");
        push(arguments[0]);
        break;
    }
  }

  /// (storage, offset, sizes, strides, requires_grad, hooks[, metadata])
  void rebuild_tensor(const std::vector<Value>& arguments) {
    require(arguments.size() >= 4 && arguments[0].kind == Kind::kStorage && arguments[1].kind == Kind::kInteger &&
                arguments[1].number >= 0,
            "a tensor of unknown form");
    const Storage& storage = storages_[arguments[0].number];
    const std::vector<int64_t> shape = naturals(arguments[2]);
    const std::vector<int64_t> strides = naturals(arguments[3]);
    require(shape.size() == strides.size(), "a tensor of unknown form");
    PickledTensor tensor{.name = {},
                         .storage = std::string(storage.key),
                         .storage_elements = storage.elements,
                         .offset = arguments[1].number,
                         .layout = contiguous_layout(storage.dtype, shape)};
    std::copy(strides.begin(), strides.end(), tensor.layout.strides.begin());
    push_new(Kind::kTensor, tensors_, std::move(tensor));
  }

  std::vector<int64_t> naturals(const Value& value) const {
    require(value.kind == Kind::kTuple, "a tensor of unknown form");
    const std::vector<Value>& items = tuples_[value.number];
    require(items.size() <= Tensor::kMaxRank, "a tensor of too many dimensions");
    std::vector<int64_t> result;
    for (const Value& item : items) {
      require(item.kind == Kind::kInteger && item.number >= 0, "a negative size or stride");
      result.push_back(item.number);
    }
    return result;
  }

  /// The state of a dictionary (its _metadata) says nothing about tensors.
  void build() {
    pop();
    dict_on_top();
  }

  std::vector<PickledTensor> result(const Value& dict) const {
    std::vector<PickledTensor> result;
    for (const auto& [key, value] : dicts_[dict.number]) {
      require(key.kind == Kind::kText, "a key that is no text");
      QUIRE_REQUIRE(value.kind == Kind::kTensor, ErrorKind::kInvalidArgument, "[", where_,
                    "] not a dictionary of tensors: entry=", in_quotes(key.text),
                    " is none; save the state_dict alone");
      result.push_back(tensors_[value.number]);
      result.back().name = std::string(key.text);
    }
    return result;
  }

  std::string_view pickle_;
  std::string_view where_;
  size_t at_ = 0;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, Value> memo_;
  std::vector<std::vector<Value>> tuples_;
  std::vector<Dict> dicts_;
  std::vector<Storage> storages_;
  std::vector<PickledTensor> tensors_;
};

}  // namespace

std::vector<PickledTensor> read_pickled_tensors(std::string_view pickle, std::string_view where) {
  return Interpreter(pickle, where).run();
}

}  // namespace quire
