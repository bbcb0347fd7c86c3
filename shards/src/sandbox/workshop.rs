//! The workshop of a shard: templates become behaviours.
//!
//! Owns: what templates of a shard share: live agents, bound modules, file trees.  Not: compiling
//! (the build does it), deciding when.
//! W1  loading compiles nothing and starts no thread.
//! W2  a shard that loads no template has no engine, no timer and no userfaultfd.

use super::behaviour::{SandboxTemplate, TemplateParts};
use super::cache::ModuleCache;
use super::host::{self, Host, HostConfig, HostState};
use super::instance::{CompiledModule, InstanceError};
use super::live::{Live, LiveLimits, World};
use super::slot::BaseImage;
use super::tree::Tree;
use crate::errand::{TemplateRef, Workshop};
use heronry_engine::Behaviour;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use wasmtime::Linker;

/// Loads templates for one shard. Stays on its thread.
pub struct SandboxWorkshop {
    plan: WorkshopPlan,
    shop: OnceCell<Shop>,
    modules: HashMap<[u8; 32], Rc<CompiledModule<Host>>>,
    trees: HashMap<PathBuf, Arc<Tree>>,
}

/// What a workshop is made by.
#[derive(Clone)]
pub struct WorkshopPlan {
    /// Where compiled modules are.
    pub cache_dir: PathBuf,
    /// Bounds of the shard's sandboxes.
    pub limits: LiveLimits,
    /// The world around them.
    pub world: World,
    /// `net.payload_bytes_max`.
    pub payload_bytes_max: usize,
}

/// What the first template brings (W2).
struct Shop {
    live: Rc<Live>,
    linker: Linker<Host>,
    cache: ModuleCache,
}

impl SandboxWorkshop {
    /// A workshop that has loaded nothing yet.
    pub fn new(plan: WorkshopPlan) -> SandboxWorkshop {
        SandboxWorkshop {
            plan,
            shop: OnceCell::new(),
            modules: HashMap::new(),
            trees: HashMap::new(),
        }
    }

    /// The shard's live agents, once a template was loaded.
    pub fn live(&self) -> Option<&Rc<Live>> {
        self.shop.get().map(|shop| &shop.live)
    }

    fn shop(&self) -> Result<&Shop, String> {
        if let Some(shop) = self.shop.get() {
            return Ok(shop);
        }
        let live = Live::new(self.plan.limits, self.plan.world).map_err(|e| e.to_string())?;
        let mut linker = Linker::new(live.sandboxes().engine());
        host::link(&mut linker).map_err(|e| InstanceError::Link(e).to_string())?;
        let cache = ModuleCache::attach(&self.plan.cache_dir).map_err(|e| e.to_string())?;
        Ok(self.shop.get_or_init(|| Shop { live, linker, cache }))
    }

    /// The module, bound once for all templates that it is the module of.
    fn module(&mut self, template: &TemplateRef) -> Result<Rc<CompiledModule<Host>>, String> {
        let TemplateRef { header, needs, .. } = template;
        if let Some(module) = self.modules.get(&header.module) {
            return Ok(Rc::clone(module));
        }
        let Shop { live, linker, cache } = self.shop()?;
        let sandboxes = live.sandboxes();
        let loaded =
            cache.load(sandboxes.engine(), &header.module, needs.map(|needs| needs.module));
        let loaded = loaded.map_err(|e| e.to_string())?;
        let globals = header.globals.iter().map(String::as_str);
        let bound = CompiledModule::new(sandboxes, &loaded, linker, globals);
        let module = Rc::new(bound.map_err(|e| e.to_string())?);
        self.modules.insert(header.module, Rc::clone(&module));
        Ok(module)
    }

    fn tree(&mut self, template: &TemplateRef) -> Result<Arc<Tree>, String> {
        let TemplateRef { header, needs, .. } = template;
        let Some(path) = &header.tree else { return Ok(Arc::new(Tree::empty())) };
        if let Some(tree) = self.trees.get(path) {
            return Ok(Arc::clone(tree));
        }
        let tree = Arc::new(
            Tree::open(path, needs.and_then(|needs| needs.tree)).map_err(|e| e.to_string())?,
        );
        self.trees.insert(path.clone(), Arc::clone(&tree));
        Ok(tree)
    }
}

impl Workshop for SandboxWorkshop {
    fn load(&mut self, template: &TemplateRef) -> Result<Rc<dyn Behaviour>, String> {
        let header = &template.header;
        let state = HostState::decode(&header.state).map_err(|e| e.to_string())?;
        let base = template.base.open().map_err(|e| format!("the template's base: {e}"))?;
        let base = BaseImage::open(base).map_err(|e| e.to_string())?;
        let module = self.module(template)?;
        if state.module != header.module || state.globals.len() != module.global_words() {
            return Err("the template is of another build of its module; deploy it again".into());
        }
        let tree = self.tree(template)?;
        let parts = TemplateParts {
            name: template.name.clone(),
            number: template.number,
            summary: header.summary.clone(),
            module,
            base: Arc::new(base),
            state,
            tree,
            config: Arc::new(HostConfig {
                args: header.args.clone(),
                env: header.env.clone(),
                payload_bytes_max: self.plan.payload_bytes_max,
            }),
        };
        let live = Rc::clone(&self.shop()?.live);
        Ok(Rc::new(SandboxTemplate::new(parts, live)))
    }
}
