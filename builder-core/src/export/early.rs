//! Packing beside the build: a layer of which an output will need a blob, or a name, is packed as soon as its step is done, while later steps
//! run (DESIGN §6). What the export finds made it need not make.
//!
//! One layer at a time, so that steps keep most of the machine; and where room on the disk is scarce it is left to the steps, and the export packs when
//! they have ended and have removed what they needed for a while. Nothing depends on it: a failure is met again by the export, which says it.
//! Builds that lend secrets go without, for the export reads every layer to search it anyway.

use std::collections::HashSet;
use std::sync::Arc;

use builder_snapshot::StopSignal;
use builder_snapshot::layer::TimePolicy;
use builder_snapshot::toc::LayerId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::{ExportRequest, default_times, time_policy};
use crate::content::Store;
use crate::content::room::Room;
use crate::graph::{Graph, Op, VertexId};
use crate::layer;
use crate::request::{Compression, OutputKind};
use crate::threads::Threads;

/// In which form an output wants layers; without a compression only their names are wanted.
type Form = (TimePolicy, Option<Compression>);

/// Tells of layers that have been made. One a build; each of its vertices has one layer at most, so nothing piles up.
#[derive(Debug, Clone)]
pub struct Made {
    wanted: Arc<HashSet<VertexId>>,
    layers: UnboundedSender<LayerId>,
}

impl Made {
    /// The layer of `vertex` is in the store.
    pub(crate) fn layer(&self, vertex: VertexId, layer: LayerId) {
        if self.wanted.contains(&vertex) {
            // Nobody listens any more once the export has begun.
            let _ = self.layers.send(layer);
        }
    }
}

/// The packing of one build.
#[derive(Debug)]
pub(crate) struct Early {
    layers: UnboundedReceiver<LayerId>,
    forms: Vec<Form>,
    store: Arc<Store>,
    threads: Threads,
    ending: CancellationToken,
}

impl Early {
    /// What is told of layers, and what packs those that the images of `targets` will have.
    pub(crate) fn new(request: &ExportRequest<'_>, graph: &Graph, targets: &[VertexId], store: &Arc<Store>, threads: &Threads) -> (Made, Self) {
        let forms = forms(request);
        let wanted = if forms.is_empty() { HashSet::new() } else { layers_of(graph, targets) };
        let (sender, layers) = unbounded_channel();
        let early = Self { layers, forms, store: Arc::clone(store), threads: threads.clone(), ending: CancellationToken::new() };
        (Made { wanted: Arc::new(wanted), layers: sender }, early)
    }

    /// Ends [`Early::run`] when the layer in work is packed: the export makes the others faster, all at once.
    pub(crate) fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Packs layers until it is to end. Dropping the future stops the layer in work.
    pub(crate) async fn run(mut self) {
        loop {
            let layer = tokio::select! {
                biased;
                () = self.ending.cancelled() => return,
                layer = self.layers.recv() => layer,
            };
            let Some(layer) = layer else {
                // All vertices are done; this is not the one to end the build.
                self.ending.cancelled().await;
                return;
            };
            for &(times, compression) in &self.forms {
                let store = Arc::clone(&self.store);
                let packed = self.threads.run(move |stop| match compression {
                    Some(compression) => {
                        layer::layer_blob(&store, layer, times, compression, layer::threads(), None, &or_when_room_is_scarce(stop, store.room()))
                    }
                    None => layer::layer_name(&store, layer, times, None, &stop),
                });
                if let Ok(Err(error)) = packed.await {
                    tracing::debug!(%error, "cannot pack a layer early");
                }
                if self.ending.is_cancelled() {
                    return;
                }
            }
        }
    }
}

/// A signal that also leaves the room on the disk to steps.
fn or_when_room_is_scarce(stop: StopSignal, room: &Arc<Room>) -> StopSignal {
    let room = Arc::clone(room);
    StopSignal::new(move || stop.is_set() || room.is_scarce())
}

/// The forms in which the outputs of a request will want the layers that are made, each once.
fn forms(request: &ExportRequest<'_>) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    if request.tripwire.is_some() {
        return forms;
    }
    for output in request.outputs {
        let form = match output.kind {
            OutputKind::Oci { .. } | OutputKind::Docker => (time_policy(request, output), Some(output.compression)),
            OutputKind::Image if output.push.is_some() => (time_policy(request, output), Some(output.compression)),
            OutputKind::Image => (default_times(request, request.source_date_epoch), None),
            OutputKind::Local | OutputKind::Tar | OutputKind::CacheOnly => continue,
        };
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    let has_image = request.outputs.iter().any(|output| !matches!(output.kind, OutputKind::Local | OutputKind::Tar | OutputKind::CacheOnly));
    if !request.tags.is_empty() && !has_image {
        forms.push((default_times(request, request.source_date_epoch), None));
    }
    forms
}

/// The vertices whose layers the trees of `targets` are made of.
fn layers_of(graph: &Graph, targets: &[VertexId]) -> HashSet<VertexId> {
    let mut found = HashSet::new();
    let mut todo = targets.to_vec();
    while let Some(id) = todo.pop() {
        if !found.insert(id) {
            continue;
        }
        let vertex = graph.vertex(id);
        match &vertex.op {
            Op::Exec(_) => todo.extend(vertex.inputs.first()),
            Op::File(op) if op.base => todo.extend(vertex.inputs.first()),
            Op::Merge => todo.extend(&vertex.inputs),
            Op::File(_) | Op::Source(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::graph::{FileOp, GraphBuilder, SourceOp, VertexMeta};
    use crate::request::{Output, OutputDest, Push};

    #[test]
    fn only_layers_of_the_image_count() {
        let mut graph = GraphBuilder::new();
        let source = |name: &str| Op::Source(SourceOp::Local { name: name.into() });
        let file = |base| Op::File(FileOp { base, actions: Vec::new() });
        let [bottom, other] = ["a", "b"].map(|name| graph.add(source(name), vec![], VertexMeta::default()));
        let copied_from = graph.add(file(true), vec![other], VertexMeta::default());
        let linked = graph.add(file(false), vec![copied_from], VertexMeta::default());
        let on_base = graph.add(file(true), vec![bottom, copied_from], VertexMeta::default());
        let top = graph.add(Op::Merge, vec![on_base, linked], VertexMeta::default());
        let found = layers_of(&graph.finish(), &[top]);
        assert_eq!(found, HashSet::from([top, on_base, bottom, linked]));
    }

    #[test]
    fn packing_leaves_scarce_room_to_steps() {
        // No file system has less room.
        let room = Arc::new(Room::new("/proc".into()));
        assert!(or_when_room_is_scarce(StopSignal::default(), &room).is_set());
    }

    #[test]
    fn each_form_is_wanted_once() {
        let out = |kind, compression| Output { compression, ..Output::new(kind, OutputDest::None) };
        let (gzip, zstd) = (Compression::Gzip { level: None }, Compression::Zstd { level: None });
        let tags = ["a".parse().expect("name")];
        let of = |outputs: &[Output], tags: &[crate::oci::Reference]| {
            let annotations = BTreeMap::new();
            let request =
                ExportRequest { outputs, tags, annotations: &annotations, source_date_epoch: None, timestamps: None, tripwire: None, index: false };
            forms(&request).into_iter().map(|(_, compression)| compression).collect::<Vec<_>>()
        };
        assert_eq!(of(&[], &[]), []);
        assert_eq!(of(&[], &tags), [None]);
        assert_eq!(of(&[out(OutputKind::Local, gzip)], &tags), [None]);
        let pushed = Output { push: Some(Push::default()), ..out(OutputKind::Image, zstd) };
        assert_eq!(of(&[out(OutputKind::Docker, gzip), out(OutputKind::Oci { tar: true }, gzip), pushed], &tags), [Some(gzip), Some(zstd)]);
        assert_eq!(of(&[out(OutputKind::Image, gzip), out(OutputKind::CacheOnly, gzip)], &tags), [None]);
    }
}
