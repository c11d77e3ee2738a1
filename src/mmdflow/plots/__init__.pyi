from .animations import (
    Animation as Animation,
    flow_pictures as flow_pictures,
    html as html,
    particle_pictures as particle_pictures,
    save_animation as save_animation,
    save_pictures as save_pictures,
)
from .figures import (
    check_matplotlib as check_matplotlib,
    draw as draw,
)
from .pictures import (
    above_each_other as above_each_other,
    check_output as check_output,
    image_grid as image_grid,
    is_animation as is_animation,
    picture as picture,
    save_picture as save_picture,
    save_samples as save_samples,
    scatter as scatter,
    trajectory_grid as trajectory_grid,
)
from .reports import (
    check_monitor_file as check_monitor_file,
    save_curves as save_curves,
    save_gallery as save_gallery,
    save_monitor as save_monitor,
    save_report as save_report,
)
