// Asks the model.pt of a bundle, in item indices (the rows of catalog.parquet), or with its ids.pt
// in item ids.
//
//   recommend MODEL NUM_FIELDS [IDS] < REQUESTS > ANSWERS
//
// NUM_FIELDS is the number of user attributes in signature.json. A request is some of these lines,
// in any order, and "ask" at its end:
//
//   k 10
//   exclude_seen 1
//   items 3 7 3           what the user did, oldest first
//   ages 9.5 2 0          days from each to now; without, times are unknown
//   attribute 0 2         the value of the first user attribute
//   denied 4 5            never answered
//   allowed 1 2 8         the only ones that are answered
//   ask
//
// With IDS the items, denied and allowed are ids, as text with tabs between them, and those that
// the bundle does not know are left out. An answer is a line of index:score pairs, best first, with
// IDS of id:score pairs with tabs between them. A request that breaks a rule of the bundle
// is answered with "error: " and the rule; the program goes on. Compare the hash of model.pt with
// the manifest before you load it: a foreign one can run code.

#include <torch/script.h>

#include <iostream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace {

struct Request {
  explicit Request(std::size_t num_fields) : attributes(num_fields) {}

  std::int64_t k = 10;
  bool exclude_seen = true;
  std::vector<std::int64_t> items;
  std::vector<bool> known;  // of the ids that were given; empty: indices were
  std::vector<float> ages;
  std::vector<std::vector<std::int64_t>> attributes;
  std::vector<std::int64_t> denied;
  std::optional<std::vector<std::int64_t>> allowed;
};

// What a request names its items by, and an answer: their indices, or ids of ids.pt.
class Names {
 public:
  explicit Names(std::optional<torch::jit::Module> ids) : ids_(std::move(ids)) {}

  bool are_ids() const { return ids_.has_value(); }

  // Indices of the ids that are known, and for each id whether it is.
  std::pair<std::vector<std::int64_t>, std::vector<bool>> indices_of(
      const std::vector<std::string>& names) {
    const auto count = static_cast<std::int64_t>(names.size());
    const auto offsets = torch::tensor({std::int64_t{0}, count}, torch::kInt64);
    const auto found = ids_->forward({c10::List<std::string>(names), offsets}).toTuple();
    const auto items = found->elements()[0].toTensor();
    const auto known = found->elements()[2].toTensor();
    const auto* first = items.const_data_ptr<std::int64_t>();
    const auto* is_known = known.const_data_ptr<bool>();
    return {std::vector<std::int64_t>(first, first + items.numel()),
            std::vector<bool>(is_known, is_known + count)};  // not in braces: a pointer is a bool
  }

  std::string of(std::int64_t item) {
    if (!ids_) return std::to_string(item);
    const auto one = torch::tensor({item}, torch::kInt64).unsqueeze(0);
    return ids_->get_method("of")({one}).toList().get(0).toListRef()[0].toStringRef();
  }

 private:
  std::optional<torch::jit::Module> ids_;
};

std::vector<std::string> tabbed(std::istringstream& line) {
  std::vector<std::string> names;
  line >> std::ws;
  for (std::string name; std::getline(line, name, '\t');) names.push_back(name);
  return names;
}

template <typename T>
std::vector<T> rest_of(std::istringstream& line) {
  return {std::istream_iterator<T>(line), std::istream_iterator<T>()};
}

// Values of one user, and where they begin and end.
at::Tensor values_of(const std::vector<std::int64_t>& values) {
  return torch::tensor(values, torch::kInt64);
}

at::Tensor offsets_of(const std::vector<std::int64_t>& values) {
  return torch::tensor({std::int64_t{0}, static_cast<std::int64_t>(values.size())}, torch::kInt64);
}

// The ages of those events whose item is known.
std::vector<float> ages_of(const Request& request) {
  if (request.known.empty() || request.ages.size() != request.known.size()) return request.ages;
  std::vector<float> ages;
  for (std::size_t place = 0; place < request.ages.size(); ++place) {
    if (request.known[place]) ages.push_back(request.ages[place]);
  }
  return ages;
}

std::vector<c10::IValue> arguments_of(const Request& request) {
  c10::List<at::Tensor> attribute_values, attribute_offsets;
  for (const auto& values : request.attributes) {
    attribute_values.push_back(values_of(values));
    attribute_offsets.push_back(offsets_of(values));
  }
  std::vector<c10::IValue> arguments = {
      values_of(request.items), offsets_of(request.items),
      torch::tensor(ages_of(request), torch::kFloat32),
      attribute_values, attribute_offsets,
      request.k, request.exclude_seen,
      values_of(request.denied), offsets_of(request.denied)};
  if (request.allowed) {
    arguments.emplace_back(values_of(*request.allowed));
    arguments.emplace_back(offsets_of(*request.allowed));
  }
  return arguments;
}

void answer(torch::jit::Module& model, Names& names, const Request& request) {
  const auto found = model.forward(arguments_of(request)).toTuple();
  const auto items = found->elements()[0].toTensor();
  const auto scores = found->elements()[1].toTensor();
  const auto item = items.accessor<std::int64_t, 2>();
  const auto score = scores.accessor<float, 2>();
  const char* between = "";
  const char* next = names.are_ids() ? "\t" : " ";
  for (std::int64_t place = 0; place < items.size(1) && item[0][place] >= 0; ++place) {
    std::cout << between << names.of(item[0][place]) << ':' << score[0][place];
    between = next;
  }
  std::cout << std::endl;
}

// The last line of what TorchScript says is the rule; those before it are the model's source.
std::string rule_of(const std::string& message) {
  const auto end = message.find_last_not_of('\n');
  const auto line = message.substr(0, end + 1);
  return line.substr(line.rfind('\n') + 1);
}

void read_line(const std::string& text, Names& names, Request& request) {
  std::istringstream line(text);
  std::string word;
  line >> word;
  if (word == "k") line >> request.k;
  else if (word == "exclude_seen") line >> request.exclude_seen;
  else if (names.are_ids() && word == "items") {
    std::tie(request.items, request.known) = names.indices_of(tabbed(line));
  } else if (names.are_ids() && word == "denied") {
    request.denied = names.indices_of(tabbed(line)).first;
  } else if (names.are_ids() && word == "allowed") {
    request.allowed = names.indices_of(tabbed(line)).first;
  } else if (word == "items") request.items = rest_of<std::int64_t>(line);
  else if (word == "ages") request.ages = rest_of<float>(line);
  else if (word == "denied") request.denied = rest_of<std::int64_t>(line);
  else if (word == "allowed") request.allowed = rest_of<std::int64_t>(line);
  else if (word == "attribute") {
    std::size_t field = 0;
    line >> field;
    request.attributes.at(field) = rest_of<std::int64_t>(line);
  } else throw std::invalid_argument("not a line of a request: " + text);
}

}  // namespace

int main(int count, char** words) {
  if (count != 3 && count != 4) {
    std::cerr << "usage: recommend MODEL NUM_FIELDS [IDS] < REQUESTS\n";
    return 2;
  }
  c10::InferenceMode without_gradients;
  auto model = torch::jit::load(words[1]);
  model.eval();
  const auto num_fields = std::stoul(words[2]);
  Names names(count == 4 ? std::make_optional(torch::jit::load(words[3])) : std::nullopt);
  std::cout.precision(9);  // a float comes back as it was
  Request request(num_fields);
  for (std::string line; std::getline(std::cin, line);) {
    if (line != "ask") {
      read_line(line, names, request);
      continue;
    }
    try {
      answer(model, names, request);
    } catch (const std::exception& error) {
      std::cout << "error: " << rule_of(error.what()) << std::endl;
    }
    request = Request(num_fields);
  }
}
