#include "transport/ucx_devices.h"

#include <uct/api/uct.h>

#include "absl/strings/match.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

// One memory domain of a component: what it can send with is added to `found`.
ucs_status_t AddDomain(uct_component_h component, const char* domain, std::vector<UcxDevice>* found) {
  uct_md_config_t* config = nullptr;
  ucs_status_t status = uct_md_config_read(component, nullptr, nullptr, &config);
  if (status != UCS_OK) return status;
  uct_md_h md = nullptr;
  status = uct_md_open(component, domain, config, &md);
  uct_config_release(config);
  if (status != UCS_OK) return status;
  uct_tl_resource_desc_t* resources = nullptr;
  unsigned count = 0;
  status = uct_md_query_tl_resources(md, &resources, &count);
  if (status == UCS_OK) {
    for (unsigned i = 0; i < count; ++i) {
      const uct_tl_resource_desc_t& resource = resources[i];
      const bool network = resource.dev_type == UCT_DEVICE_TYPE_NET;
      found->push_back(
          {resource.tl_name, resource.dev_name, network, network && !absl::StartsWith(resource.tl_name, "tcp")});
    }
    uct_release_tl_resource_list(resources);
  }
  uct_md_close(md);
  return status;
}

absl::Status AddComponent(uct_component_h component, std::vector<UcxDevice>* found) {
  uct_component_attr_t attributes{};
  attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCE_COUNT;
  ucs_status_t status = uct_component_query(component, &attributes);
  if (status != UCS_OK) return UcxStatus(status, "a component of UCX");
  std::vector<uct_md_resource_desc_t> domains(attributes.md_resource_count);
  if (domains.empty()) return absl::OkStatus();
  attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCES;
  attributes.md_resources = domains.data();
  status = uct_component_query(component, &attributes);
  if (status != UCS_OK) return UcxStatus(status, "a component of UCX");
  // A domain that cannot be opened has nothing to send with: others may.
  for (const uct_md_resource_desc_t& domain : domains) AddDomain(component, domain.md_name, found);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<UcxDevice>> ListUcxDevices() {
  uct_component_h* components = nullptr;
  unsigned count = 0;
  const ucs_status_t status = uct_query_components(&components, &count);
  if (status != UCS_OK) return UcxStatus(status, "the components of UCX");
  std::vector<UcxDevice> found;
  absl::Status added;
  for (unsigned i = 0; i < count; ++i) added.Update(AddComponent(components[i], &found));
  uct_release_component_list(components);
  if (!added.ok()) return added;
  return found;
}

}  // namespace interlace
